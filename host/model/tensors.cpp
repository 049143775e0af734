#include "host/common/text.h"
#include "host/model/model.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>

namespace pvtune {

std::vector<TensorSpec> block_specs(const ModelConfig& config, std::int64_t i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const std::int64_t queries = config.heads * config.head_dim;
    const std::int64_t keys = config.kv_heads * config.head_dim;
    std::vector<TensorSpec> specs;
    const auto norm = [&](NormIndex index, const char* name, std::int64_t size) {
        specs.push_back({prefix + name + ".weight", {size}, false, -1, index});
    };
    const auto matrix = [&](MatrixIndex index, const char* name, std::int64_t rows, std::int64_t columns, bool bias) {
        specs.push_back({prefix + name + ".weight", {rows, columns}, true, index, -1});
        if (bias) specs.push_back({prefix + name + ".bias", {rows}, false, index, -1});
    };
    norm(attention_norm, "input_layernorm", config.width);
    matrix(query, "self_attn.q_proj", queries, config.width, config.qkv_bias);
    matrix(key, "self_attn.k_proj", keys, config.width, config.qkv_bias);
    matrix(value, "self_attn.v_proj", keys, config.width, config.qkv_bias);
    matrix(output, "self_attn.o_proj", config.width, queries, config.output_bias);
    if (config.head_norms) {
        norm(query_norm, "self_attn.q_norm", config.head_dim);
        norm(key_norm, "self_attn.k_norm", config.head_dim);
    }
    matrix(gate, "mlp.gate_proj", config.intermediate, config.width, config.mlp_bias);
    matrix(up, "mlp.up_proj", config.intermediate, config.width, config.mlp_bias);
    matrix(down, "mlp.down_proj", config.width, config.intermediate, config.mlp_bias);
    if (config.branch_norms) {
        norm(attention_out_norm, "post_attention_layernorm", config.width);
        norm(mlp_norm, "pre_feedforward_layernorm", config.width);
        norm(mlp_out_norm, "post_feedforward_layernorm", config.width);
    } else {
        norm(mlp_norm, "post_attention_layernorm", config.width);
    }
    return specs;
}

std::vector<TensorSpec> tensor_specs(const ModelConfig& config) {
    std::vector<TensorSpec> specs;
    specs.push_back({"model.embed_tokens.weight", {config.vocabulary, config.width}});
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
        const std::vector<TensorSpec> block = block_specs(config, layer);
        specs.insert(specs.end(), block.begin(), block.end());
    }
    specs.push_back({"model.norm.weight", {config.width}});
    if (!config.tied) specs.push_back({"lm_head.weight", {config.vocabulary, config.width}});
    return specs;
}

std::vector<std::pair<std::string, Tensor>> dense_parameters(const Block& block, const ModelConfig& config,
                                                             std::int64_t i) {
    std::vector<std::pair<std::string, Tensor>> parameters;
    for (const TensorSpec& spec : block_specs(config, i)) {
        if (spec.block_matrix) continue;
        parameters.emplace_back(spec.name, spec.norm >= 0 ? block.norms[static_cast<std::size_t>(spec.norm)]
                                                          : block.matrices[static_cast<std::size_t>(spec.matrix)].bias);
    }
    return parameters;
}

ModelConfig read_config(const StoreReader& store) {
    if (!store.has_attribute("/", "config"))
        throw Error(store.path() + ": holds no model config: import the model again");
    return parse_config(store.text("/", "config"), store.path());
}

std::vector<float> read_dense(const StoreReader& store, const std::string& name,
                              const std::vector<std::int64_t>& shape) {
    const std::string path = "/tensors/" + name;
    if (!store.has(path))
        throw Error(store.path() + ": has no tensor " + name + ": the file is incomplete, make it again");
    if (store.is_group(path)) throw Error(store.path() + ": " + name + " is quantised, a dense tensor is needed");
    const TensorInfo info = store.info(path);
    if (info.shape != shape) {
        throw Error(store.path() + ": " + name + " is " + shape_text(info.shape) + ", the config wants " +
                    shape_text(shape));
    }
    const auto count = static_cast<std::size_t>(info.elements());
    std::vector<float> values(count);
    const auto read_as = [&]<class T>(T) {
        std::vector<T> raw(count);
        store.read(path, raw.data(), info.bytes());
        std::transform(raw.begin(), raw.end(), values.begin(), [](T value) { return to_float(value); });
    };
    switch (info.dtype) {
        case DType::f32:
            store.read(path, values.data(), info.bytes());
            break;
        case DType::bf16:
            read_as(bf16{});
            break;
        case DType::f16:
            read_as(f16{});
            break;
        default:
            throw Error(store.path() + ": " + name + " is " + std::string(name_of(info.dtype)) +
                        "; weights are f32, bf16 or f16");
    }
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
        throw Error(store.path() + ": " + name + " holds NaN or infinity: the model is damaged, import it again");
    }
    return values;
}

void write_trained(StoreWriter& store, const std::string& path, const TensorInfo& info,
                   const std::vector<float>& values) {
    const auto narrow = [&]<class T>(T) {
        std::vector<T> converted(values.size());
        std::transform(values.begin(), values.end(), converted.begin(), from_float<T>);
        if (!std::all_of(converted.begin(), converted.end(), [](T value) { return std::isfinite(to_float(value)); })) {
            throw Error(path + " has grown beyond " + std::string(name_of(info.dtype)) + ": tune with a smaller --lr");
        }
        store.write(path, info.dtype, info.shape, converted.data());
    };
    const DType stored = info.shape.size() == 1 ? DType::f32 : info.dtype;
    switch (stored) {
        case DType::bf16:
            narrow(bf16{});
            break;
        case DType::f16:
            narrow(f16{});
            break;
        default:
            store.write(path, DType::f32, info.shape, values.data());
    }
}

}  // namespace pvtune
