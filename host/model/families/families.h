#pragma once

#include "host/model/config_keys.h"

#include <functional>
#include <span>

/// What families of models make of their config.json. A new one is a file with its parse function and a line here and
/// in families.cpp: docs/families.md.
namespace pvtune {

/// Reads all keys of the family into config.
using ParseFamily = void (*)(ConfigKeys& keys, ModelConfig& config);

void parse_llama(ConfigKeys& keys, ModelConfig& config);
void parse_mistral(ConfigKeys& keys, ModelConfig& config);
void parse_qwen2(ConfigKeys& keys, ModelConfig& config);
void parse_qwen3(ConfigKeys& keys, ModelConfig& config);
void parse_phi3(ConfigKeys& keys, ModelConfig& config);
void parse_gemma2(ConfigKeys& keys, ModelConfig& config);
void parse_gemma3(ConfigKeys& keys, ModelConfig& config);

struct Family {
    const char* model_type;
    ParseFamily parse;
};
std::span<const Family> families();

// ---- what they share; config holds the family's defaults

/// Sizes, epsilon, tied; positions are left to parse_rotary.
void parse_sizes(ConfigKeys& keys, ModelConfig& config);
/// hidden_act or another key of the activation, which must be one of the names.
void expect_activation(ConfigKeys& keys, const std::string& key, std::initializer_list<const char*> names);
/// partial_rotary_factor, where the family has it: elements of a head that turn.
std::int64_t rotary_dimensions(ConfigKeys& keys, const ModelConfig& config);
/// rope_theta, and rope_scaling or rope_parameters. rotary.dimensions and original_positions (0: max_positions) are
/// set before.
void parse_rotary(ConfigKeys& keys, const ModelConfig& config, RotaryConfig& rotary);
/// An object of either kind.
void parse_rotary_object(ConfigKeys object, const ModelConfig& config, RotaryConfig& rotary);
/// sliding_window of the families whose default it is to have one: 0 where the file says null.
std::int64_t parse_window(ConfigKeys& keys);
/// layer_types, or what the family has without it: which layers have config.window.
void parse_layer_types(ConfigKeys& keys, ModelConfig& config, const std::function<bool(std::int64_t)>& windowed);

/// What Gemma 2 and 3 share, sizes and sliding_window included.
void parse_gemma(ConfigKeys& keys, ModelConfig& config);
/// A cap of scores or logits; 0 where the file says null.
double parse_cap(ConfigKeys& keys, const std::string& key, double fallback);
/// query_pre_attn_scalar, which takes head_dim's place under the root of the attention's scale: by way of the amplitude
/// of cosines and sines, where queries and keys meet.
void scale_attention(ConfigKeys& keys, ModelConfig& config);
/// use_sliding_window, sliding_window, max_window_layers and layer_types of the Qwen families.
void parse_upper_windows(ConfigKeys& keys, ModelConfig& config);

}  // namespace pvtune
