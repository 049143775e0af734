#include "host/quant/quantize_matrix.h"

#include "host/quant/gptq.h"
#include "io/error.h"

namespace pvtune {

std::unique_ptr<Representation> quantize_matrix(Backend& backend, const std::string& name,
                                                std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                                                const QuantizationSpec& spec, std::uint64_t seed,
                                                std::span<const float> hessian, QuantizationReport* report) {
    if (spec.representation == "scalar") {
        return quantize_scalar(backend, name, weight, rows, columns, spec, hessian, report);
    }
    if (!hessian.empty()) throw Error("quantising with a Hessian is not there yet");
    return quantize_additive(backend, name, weight, rows, columns, spec, seed, report);
}

}  // namespace pvtune
