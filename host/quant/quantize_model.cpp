#include "host/quant/quantize_model.h"

#include "host/model/model.h"
#include "host/quant/additive.h"
#include "host/quant/quantize_matrix.h"
#include "host/quant/quip.h"
#include "host/quant/random.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

constexpr std::int64_t bits_a_byte = 8;

/// Info of a tensor that must be dense and of the config's shape.
TensorInfo dense_info(const StoreReader& model, const TensorSpec& spec) {
    const std::string path = "/tensors/" + spec.name;
    if (!model.has(path)) {
        throw Error(model.path() + ": has no tensor " + spec.name + ": the file is incomplete, import the model again");
    }
    if (model.is_group(path))
        throw Error(model.path() + ": " + spec.name + " is quantised already: name the dense model");
    model.expect(path, model.info(path).dtype, spec.shape);
    return model.info(path);
}

}  // namespace

void copy_tensor(const StoreReader& model, StoreWriter& store, const TensorSpec& spec) {
    const std::string path = "/tensors/" + spec.name;
    read_dense(model, spec.name, spec.shape);  // checks type and values
    const TensorInfo info = model.info(path);
    std::vector<std::byte> data(static_cast<std::size_t>(info.bytes()));
    model.read(path, data.data(), info.bytes());
    store.write(path, info.dtype, info.shape, data.data());
}

std::string quantization_json(const QuantizationSpec& spec, std::uint64_t seed, const std::string& calibration) {
    return nlohmann::ordered_json{
        {"representation", spec.representation},
        {"codebooks", spec.codebooks},
        {"code_bits", spec.code_bits},
        {"group", spec.group},
        {"calibration", calibration.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(calibration)},
        {"seed", seed}}
        .dump();
}

QuantizePlan plan_quantize(const Backend& backend, const StoreReader& model, const QuantizationSpec& spec) {
    check_spec(spec);
    QuantizePlan plan;
    for (const TensorSpec& tensor : tensor_specs(read_config(model))) {
        const TensorInfo info = dense_info(model, tensor);
        plan.bytes_read += info.bytes();
        if (!tensor.block_matrix) {
            plan.bytes_written += info.bytes();
            if (tensor.name.starts_with("model.layers.")) plan.bytes_of_blocks += info.bytes();
            plan.largest_dense = std::max(plan.largest_dense, info.elements());
            continue;
        }
        const bool scalar = spec.representation == "scalar";
        const bool quip = spec.representation == "quip";
        if (quip) {
            check_quip_sizes(tensor.name, tensor.shape[0], tensor.shape[1]);
            check_quip_fits(backend, "tensor '" + tensor.name + "'", tensor.shape[0], tensor.shape[1]);
        } else if (!scalar) {
            check_columns(tensor.name, tensor.shape[1], spec.group);
        }
        const std::int64_t bits = bits_of(spec, tensor.shape[0], tensor.shape[1]);
        ++plan.matrices;
        plan.weights += info.elements();
        plan.bits += bits;
        plan.largest = std::max(plan.largest, info.elements());
        const std::int64_t code_bytes = spec.code_bits > bits_a_byte ? 2 : 1;
        const std::int64_t codes = scalar ? info.elements() : info.elements() / spec.group * spec.codebooks;
        // Codes lie in whole bytes; those of quip are accounted so.
        const std::int64_t stored =
            quip ? bits / bits_a_byte : (bits - codes * spec.code_bits) / bits_a_byte + codes * code_bytes;
        plan.bytes_written += stored;
        plan.bytes_of_blocks += stored;
    }
    return plan;
}

QuantizeResult quantize_model(const StoreReader& model, const QuantizationSpec& spec, const std::string& out,
                              const std::string& command, std::uint64_t seed,
                              const std::function<std::unique_ptr<Backend>()>& make_backend,
                              const std::function<void(const QuantizedMatrix&)>& progress) {
    const ModelConfig config = read_config(model);
    StoreWriter store(out, "weights", command);
    store.set_text("/", "config", config.json);
    store.set_text("/", "quantization", quantization_json(spec, seed, ""));
    store.set_text("/", "source_hash", model.content_hash());
    Random seeds(seed);
    QuantizeResult result;
    for (const TensorSpec& tensor : tensor_specs(config)) {
        if (!tensor.block_matrix) {
            copy_tensor(model, store, tensor);
            continue;
        }
        QuantizedMatrix matrix{tensor.name, tensor.shape[0], tensor.shape[1], 0, {}};
        const auto backend = make_backend();
        const std::vector<float> weight = read_dense(model, tensor.name, tensor.shape);
        const auto quantized = quantize_matrix(*backend, tensor.name, weight, matrix.rows, matrix.columns, spec,
                                               seeds.next(), {}, &matrix.report);
        quantized->save(*backend, store, "/tensors/" + tensor.name, false);
        matrix.bits = quantized->bits();
        result.bits += matrix.bits;
        result.total.squared_error += matrix.report.squared_error;
        result.total.squared_norm += matrix.report.squared_norm;
        result.total.seconds += matrix.report.seconds;
        progress(matrix);
    }
    store.set_real("/", "relative_mse", result.total.relative_mse());
    result.content_hash = store.commit();
    return result;
}

}  // namespace pvtune
