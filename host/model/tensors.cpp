#include "host/model/model.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>

namespace pvtune {

std::vector<TensorSpec> tensor_specs(const ModelConfig& config) {
    std::vector<TensorSpec> specs;
    specs.push_back({"model.embed_tokens.weight", {config.vocabulary, config.width}});
    const std::int64_t queries = config.heads * config.head_dim;
    const std::int64_t keys = config.kv_heads * config.head_dim;
    struct Projection {
        const char* name;
        std::int64_t rows, columns;
        bool bias;
    };
    const Projection projections[matrices_per_block] = {
        {"self_attn.q_proj", queries, config.width, config.attention_bias},
        {"self_attn.k_proj", keys, config.width, config.attention_bias},
        {"self_attn.v_proj", keys, config.width, config.attention_bias},
        {"self_attn.o_proj", config.width, queries, config.attention_bias},
        {"mlp.gate_proj", config.intermediate, config.width, config.mlp_bias},
        {"mlp.up_proj", config.intermediate, config.width, config.mlp_bias},
        {"mlp.down_proj", config.width, config.intermediate, config.mlp_bias},
    };
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
        const std::string prefix = "model.layers." + std::to_string(layer) + ".";
        specs.push_back({prefix + "input_layernorm.weight", {config.width}});
        for (const auto& projection : projections) {
            specs.push_back({prefix + projection.name + ".weight", {projection.rows, projection.columns}, true});
            if (projection.bias) specs.push_back({prefix + projection.name + ".bias", {projection.rows}});
        }
        specs.push_back({prefix + "post_attention_layernorm.weight", {config.width}});
    }
    specs.push_back({"model.norm.weight", {config.width}});
    if (!config.tied) specs.push_back({"lm_head.weight", {config.vocabulary, config.width}});
    return specs;
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
        std::string text;
        for (const auto extent : info.shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
        std::string wanted;
        for (const auto extent : shape) wanted += (wanted.empty() ? "" : " x ") + std::to_string(extent);
        throw Error(store.path() + ": " + name + " is " + text + ", the config wants " + wanted);
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

void write_as(StoreWriter& store, const std::string& path, const TensorInfo& info, const std::vector<float>& values) {
    const auto narrow = [&]<class T>(T) {
        std::vector<T> converted(values.size());
        std::transform(values.begin(), values.end(), converted.begin(), from_float<T>);
        if (!std::all_of(converted.begin(), converted.end(), [](T value) { return std::isfinite(to_float(value)); })) {
            throw Error(path + " has grown beyond " + std::string(name_of(info.dtype)) + ": tune with a smaller --lr");
        }
        store.write(path, info.dtype, info.shape, converted.data());
    };
    switch (info.dtype) {
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
