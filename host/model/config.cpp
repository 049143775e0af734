#include "host/model/config.h"

#include "io/error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

using Json = nlohmann::json;

[[noreturn]] void fail(const std::string& source, const std::string& what) { throw Error(source + ": " + what); }

/// A whole number in [least, most]; the default where the key is absent or null (no default: an error).
std::int64_t integer(const Json& json, const std::string& source, const char* key, std::int64_t least,
                     std::int64_t most, std::int64_t fallback = -1) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) {
        if (fallback >= 0) return fallback;
        fail(source, std::string("has no \"") + key + "\": not a config.json of a Llama-family model");
    }
    if (!found->is_number_integer())
        fail(source, std::string("\"") + key + "\" is " + found->dump() + ", not a whole number");
    const auto value = found->get<std::int64_t>();
    if (value < least || value > most) {
        fail(source, std::string("\"") + key + "\" is " + found->dump() + ", outside " + std::to_string(least) + ".." +
                         std::to_string(most));
    }
    return value;
}

double real(const Json& json, const std::string& source, const char* key, double fallback) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return fallback;
    if (!found->is_number() || !std::isfinite(found->get<double>()) || found->get<double>() <= 0) {
        fail(source, std::string("\"") + key + "\" is " + found->dump() + ", not a positive number");
    }
    return found->get<double>();
}

bool boolean(const Json& json, const std::string& source, const char* key, bool fallback) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return fallback;
    if (!found->is_boolean()) fail(source, std::string("\"") + key + "\" is " + found->dump() + ", not true or false");
    return found->get<bool>();
}

/// Keys that change the mathematics and that this engine does not implement, with the value that means "off".
void refuse_unsupported(const Json& json, const std::string& source) {
    const std::string activation = json.value("hidden_act", Json("silu")).dump();
    if (activation != "\"silu\"" && activation != "\"swish\"") {
        fail(source, "\"hidden_act\" is " + activation + "; supported is \"silu\"");
    }
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
        const auto found = json.find(key);
        if (found == json.end() || found->is_null()) continue;
        if (!found->is_object()) fail(source, std::string("\"") + key + "\" is " + found->dump() + ", not an object");
        for (const char* type_key : {"rope_type", "type"}) {
            const auto type = found->find(type_key);
            if (type != found->end() && *type != "default") {
                fail(source, std::string("\"") + key + "\" asks for " + type->dump() +
                                 " positions, which are not supported; supported is \"default\"");
            }
        }
        if (found->contains("factor") && found->at("factor") != 1.0) {
            fail(source, std::string("\"") + key + "\" scales positions by " + found->at("factor").dump() +
                             ", which is not supported");
        }
    }
    for (const char* key : {"partial_rotary_factor", "logits_scaling", "residual_multiplier", "embedding_multiplier",
                            "attention_multiplier"}) {
        const auto found = json.find(key);
        if (found != json.end() && !found->is_null() && *found != 1.0) {
            fail(source, std::string("\"") + key + "\" is " + found->dump() + ", which is not supported (only 1)");
        }
    }
    for (const char* key : {"num_local_experts", "num_experts", "quantization_config", "final_logit_softcapping",
                            "attn_logit_softcapping", "no_rope_layers"}) {
        const auto found = json.find(key);
        if (found != json.end() && !found->is_null()) {
            fail(source, std::string("\"") + key + "\" is set, which is not supported");
        }
    }
}

}  // namespace

ModelConfig parse_config(const std::string& text, const std::string& source) {
    Json json;
    try {
        json = Json::parse(text);
    } catch (const Json::exception& error) {
        fail(source, std::string("is not JSON: ") + error.what());
    }
    if (!json.is_object()) fail(source, "is not a JSON object");
    const auto type = json.find("model_type");
    if (type == json.end() || !type->is_string()) fail(source, "has no \"model_type\"");
    const auto family = type->get<std::string>();
    constexpr std::array supported{"llama", "mistral"};
    if (std::find(supported.begin(), supported.end(), family) == supported.end()) {
        fail(source, "model_type \"" + family + "\" is not supported; supported: llama, mistral");
    }
    refuse_unsupported(json, source);

    constexpr std::int64_t most = std::int64_t{1} << 24;
    ModelConfig config;
    config.vocabulary = integer(json, source, "vocab_size", 1, most);
    config.width = integer(json, source, "hidden_size", 1, most);
    config.intermediate = integer(json, source, "intermediate_size", 1, most);
    config.layers = integer(json, source, "num_hidden_layers", 1, 4096);
    config.heads = integer(json, source, "num_attention_heads", 1, 65536);
    config.kv_heads = integer(json, source, "num_key_value_heads", 1, 65536, config.heads);
    config.max_positions = integer(json, source, "max_position_embeddings", 1, std::int64_t{1} << 40, 2048);
    if (config.heads % config.kv_heads != 0) {
        fail(source, "num_attention_heads " + std::to_string(config.heads) +
                         " is not a multiple of num_key_value_heads " + std::to_string(config.kv_heads));
    }
    config.head_dim = integer(json, source, "head_dim", 1, 65536, config.width / config.heads);
    if (config.head_dim < 2 || config.head_dim % 2 != 0) {
        fail(source, "head_dim is " + std::to_string(config.head_dim) + "; rotary positions need an even one");
    }
    const auto rope = json.find("rope_parameters");
    config.rope_theta = rope != json.end() && rope->is_object()
                            ? real(*rope, source, "rope_theta", real(json, source, "rope_theta", 10000))
                            : real(json, source, "rope_theta", 10000);
    config.rms_epsilon = real(json, source, "rms_norm_eps", 1e-6);
    config.tied = boolean(json, source, "tie_word_embeddings", false);
    config.attention_bias = family == "llama" && boolean(json, source, "attention_bias", false);
    config.mlp_bias = family == "llama" && boolean(json, source, "mlp_bias", false);
    if (family == "mistral") config.window = integer(json, source, "sliding_window", 1, std::int64_t{1} << 40, 0);
    config.json = json.dump();
    return config;
}

}  // namespace pvtune
