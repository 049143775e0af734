#include "host/quant/quantize_matrix.h"

#include "host/quant/additive.h"
#include "host/quant/gptq.h"
#include "host/quant/quip.h"
#include "host/quant/scalar.h"

namespace pvtune {

std::unique_ptr<Representation> allocate_quantized(Backend& backend, std::int64_t rows, std::int64_t columns,
                                                   const QuantizationSpec& spec) {
    if (spec.representation == "scalar") return std::make_unique<ScalarRepresentation>(backend, rows, columns, spec);
    if (spec.representation == "quip") {
        return std::make_unique<QuipRepresentation>(backend, rows, columns, spec.code_bits, true);
    }
    return std::make_unique<AdditiveRepresentation>(backend, rows, columns, spec);
}

std::unique_ptr<Representation> quantize_matrix(Backend& backend, const std::string& name,
                                                std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                                                const QuantizationSpec& spec, std::uint64_t seed,
                                                std::span<const float> hessian, QuantizationReport* report,
                                                const CalibratedSettings& additive) {
    if (spec.representation == "scalar") {
        return quantize_scalar(backend, name, weight, rows, columns, spec, hessian, report);
    }
    if (spec.representation == "quip") {
        return quantize_quip(backend, name, weight, rows, columns, spec, seed, hessian, report);
    }
    const EncodedMatrix encoded =
        hessian.empty()
            ? encode_additive(backend, name, weight, rows, columns, spec, seed, report)
            : encode_additive_calibrated(backend, name, weight, rows, columns, spec, seed, hessian, report, additive);
    auto representation = std::make_unique<AdditiveRepresentation>(backend, rows, columns, spec);
    representation->upload(backend, encoded.codes, encoded.codebooks, encoded.scales);
    return representation;
}

}  // namespace pvtune
