#include "host/model/families/families.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

constexpr std::int64_t most_positions = std::int64_t{1} << 40;

/// YaRN (Peng et al. 2023): logits grow with the factor, here by way of cosines and sines.
double yarn_amplitude(double factor, double scale) { return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1; }

void parse_yarn(ConfigKeys& keys, RotaryConfig& rotary) {
    rotary.slow_turns = keys.positive("beta_slow", 1);
    rotary.fast_turns = keys.positive("beta_fast", 32);
    rotary.truncate = keys.boolean("truncate", true);
    const double scale = keys.positive("mscale", 0);
    const double scale_all = keys.positive("mscale_all_dim", 0);
    const double suggested = scale > 0 && scale_all > 0
                                 ? yarn_amplitude(rotary.factor, scale) / yarn_amplitude(rotary.factor, scale_all)
                                 : yarn_amplitude(rotary.factor, 1);
    rotary.amplitude = keys.positive("attention_factor", suggested);
    if (rotary.theta <= 1) keys.fail("yarn needs a \"rope_theta\" above 1");
}

void parse_longrope(ConfigKeys& keys, const ModelConfig& config, RotaryConfig& rotary) {
    rotary.short_factors = keys.numbers("short_factor", rotary.dimensions / 2);
    rotary.long_factors = keys.numbers("long_factor", rotary.dimensions / 2);
    const auto original = static_cast<double>(rotary.original_positions);
    const double factor = keys.positive("factor", static_cast<double>(config.max_positions) / original);
    const double suggested = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
    rotary.amplitude = keys.positive("attention_factor", suggested);
}

}  // namespace

void parse_sizes(ConfigKeys& keys, ModelConfig& config) {
    constexpr std::int64_t most = std::int64_t{1} << 24;
    config.vocabulary = keys.integer("vocab_size", 1, most);
    config.width = keys.integer("hidden_size", 1, most);
    config.intermediate = keys.integer("intermediate_size", 1, most);
    config.layers = keys.integer("num_hidden_layers", 1, 4096);
    config.heads = keys.integer("num_attention_heads", 1, 65536);
    config.kv_heads = keys.integer("num_key_value_heads", 1, 65536, config.heads);
    config.max_positions = keys.integer("max_position_embeddings", 1, most_positions, config.max_positions);
    if (config.heads % config.kv_heads != 0) {
        keys.fail("num_attention_heads " + std::to_string(config.heads) + " is not a multiple of num_key_value_heads " +
                  std::to_string(config.kv_heads));
    }
    const std::int64_t head_dim = config.head_dim > 0 ? config.head_dim : config.width / config.heads;
    config.head_dim = keys.integer("head_dim", 1, 65536, head_dim);
    if (config.head_dim < 2 || config.head_dim % 2 != 0) {
        keys.fail("head_dim is " + std::to_string(config.head_dim) + "; rotary positions need an even one");
    }
    config.rms_epsilon = keys.positive("rms_norm_eps", config.rms_epsilon);
    config.tied = keys.boolean("tie_word_embeddings", config.tied);
}

void expect_activation(ConfigKeys& keys, const std::string& key, std::initializer_list<const char*> names) {
    const std::string name = keys.word(key, *names.begin());
    if (std::find(names.begin(), names.end(), name) == names.end()) {
        keys.refuse(key, std::string("\"") + *names.begin() + "\"");
    }
}

std::int64_t rotary_dimensions(ConfigKeys& keys, const ModelConfig& config) {
    double share = keys.positive("partial_rotary_factor", 1);
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
        if (keys.has(key)) share = keys.object(key).positive("partial_rotary_factor", share);
    }
    const auto dimensions = static_cast<std::int64_t>(static_cast<double>(config.head_dim) * std::min(share, 1.0));
    if (share > 1 || dimensions < 2 || dimensions % 2 != 0) {
        keys.fail("\"partial_rotary_factor\" turns " + std::to_string(share) + " of " +
                  std::to_string(config.head_dim) + " elements of a head; an even number of at least 2 is needed");
    }
    return dimensions;
}

void parse_rotary_object(ConfigKeys keys, const ModelConfig& config, RotaryConfig& rotary) {
    rotary.theta = keys.positive("rope_theta", rotary.theta);
    const double share = keys.positive("partial_rotary_factor", 1);
    if (rotary.dimensions == config.head_dim && share != 1) keys.refuse("partial_rotary_factor", "1");
    const std::string type = keys.word("rope_type", keys.word("type", "default"));
    if (keys.has("type") && keys.word("type", "") != type) keys.fail("\"type\" and \"rope_type\" differ");
    const std::int64_t original = keys.integer("original_max_position_embeddings", 2, most_positions,
                                               std::max<std::int64_t>(2, config.max_positions));
    const bool scaled = type != "default" && type != "none" && type != "linear";
    if (scaled && rotary.original_positions == 0) rotary.original_positions = original;
    if (type == "default" || type == "none") {
        keys.only("factor", 1.0);
    } else if (type == "longrope" || (config.family == "phi3" && type == "su")) {
        rotary.scaling = RotaryScaling::longrope;
        parse_longrope(keys, config, rotary);
    } else if (type == "linear" || type == "llama3" || type == "yarn") {
        if (!keys.has("factor")) keys.fail("has no \"factor\" for \"" + type + "\" positions");
        rotary.factor = keys.positive("factor", 1);
        rotary.scaling = type == "linear"   ? RotaryScaling::linear
                         : type == "llama3" ? RotaryScaling::llama3
                                            : RotaryScaling::yarn;
        if (type == "yarn") parse_yarn(keys, rotary);
        if (type == "llama3") {
            rotary.slow_turns = keys.positive("low_freq_factor", 1);
            rotary.fast_turns = keys.positive("high_freq_factor", 4);
        }
        if (type != "linear" && rotary.fast_turns <= rotary.slow_turns) {
            keys.fail("the bound of the fast frequencies is not above that of the slow ones");
        }
    } else {
        keys.refuse(keys.has("rope_type") ? "rope_type" : "type", "default, linear, llama3, yarn, longrope");
    }
    keys.refuse_rest();
}

void parse_rotary(ConfigKeys& keys, const ModelConfig& config, RotaryConfig& rotary) {
    rotary.theta = keys.positive("rope_theta", rotary.theta);
    if (rotary.dimensions == config.head_dim) keys.only("partial_rotary_factor", 1.0);
    if (keys.has("rope_scaling") && keys.has("rope_parameters") &&
        keys.text("rope_scaling") != keys.text("rope_parameters")) {
        keys.fail("has both \"rope_scaling\" and \"rope_parameters\", which differ: remove one");
    }
    keys.ignore({"rope_scaling", "rope_parameters"});
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
        if (keys.has(key)) return parse_rotary_object(keys.object(key), config, rotary);
    }
}

std::int64_t parse_window(ConfigKeys& keys) {
    return keys.integer("sliding_window", 1, most_positions, keys.is_null("sliding_window") ? 0 : 4096);
}

void parse_layer_types(ConfigKeys& keys, ModelConfig& config, const std::function<bool(std::int64_t)>& windowed) {
    const std::vector<std::string> types = keys.words("layer_types");
    if (!types.empty() && static_cast<std::int64_t>(types.size()) != config.layers) {
        keys.fail("\"layer_types\" has " + std::to_string(types.size()) + " entries for " +
                  std::to_string(config.layers) + " layers");
    }
    config.windowed.resize(static_cast<std::size_t>(config.layers));
    for (std::int64_t i = 0; i < config.layers; ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (types.empty()) {
            config.windowed[at] = windowed(i);
        } else if (types[at] == "sliding_attention" || types[at] == "full_attention") {
            config.windowed[at] = types[at] == "sliding_attention";
        } else {
            keys.fail("\"layer_types\" has \"" + types[at] +
                      "\", which is not supported; supported: \"full_attention\", \"sliding_attention\"");
        }
    }
    const bool any = std::find(config.windowed.begin(), config.windowed.end(), true) != config.windowed.end();
    if (any && config.window == 0) keys.fail("\"layer_types\" asks for a sliding window, and there is none");
    if (!any) config.window = 0;
}

void parse_gemma(ConfigKeys& keys, ModelConfig& config) {
    config.head_dim = 256;
    config.tied = true;
    config.branch_norms = true;
    config.norm_offset = 1;
    config.activation = Activation::gelu_tanh;
    parse_sizes(keys, config);
    expect_activation(keys, "hidden_activation", {"gelu_pytorch_tanh"});
    expect_activation(keys, "hidden_act", {"gelu_pytorch_tanh"});
    config.embedding_scale = std::sqrt(static_cast<double>(config.width));
    config.qkv_bias = config.output_bias = keys.boolean("attention_bias", false);
    config.window = keys.integer("sliding_window", 1, most_positions, 4096);
    keys.only("sliding_window_size", config.window);  // the same once more, in some of Gemma 2's own files
    keys.only("use_bidirectional_attention", false);
}

double parse_cap(ConfigKeys& keys, const std::string& key, double fallback) {
    const double cap = keys.positive(key, fallback);
    if (keys.is_null(key) || cap == 0) return 0;
    // Where f32 has neither the cap nor a score's share of it, a model would silently be another one.
    if (cap < 1e-3 || cap > 1e6) keys.fail("\"" + key + "\" is " + keys.text(key) + ", not from 0.001 to 1000000");
    return cap;
}

void scale_attention(ConfigKeys& keys, ModelConfig& config) {
    const double scalar = keys.positive("query_pre_attn_scalar", 256);
    const double amplitude = std::pow(static_cast<double>(config.head_dim) / scalar, 0.25);
    config.rotary.amplitude *= amplitude;
    config.local_rotary.amplitude *= amplitude;
}

void parse_upper_windows(ConfigKeys& keys, ModelConfig& config) {
    const std::int64_t window = parse_window(keys);
    const std::int64_t first = keys.integer("max_window_layers", 0, most_positions, 28);
    config.window = keys.boolean("use_sliding_window", false) ? window : 0;
    parse_layer_types(keys, config, [&](std::int64_t i) { return config.window > 0 && i >= first; });
}

}  // namespace pvtune
