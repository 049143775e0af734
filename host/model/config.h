#pragma once

#include "host/model/rotary.h"

#include <string>
#include <vector>

namespace pvtune {

/// Of the MLP: activation(gate) * up.
enum class Activation { silu, gelu_tanh };

/// A decoder of RMSNorm, rotary positions, grouped-query attention and a gated MLP, with what the families vary of it:
/// host/model/families has a file for each.
struct ModelConfig {
    std::string family;  ///< model_type
    std::int64_t vocabulary = 0;
    std::int64_t width = 0;         ///< hidden_size
    std::int64_t intermediate = 0;  ///< intermediate_size of the MLP
    std::int64_t layers = 0;
    std::int64_t heads = 0;
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;
    std::int64_t max_positions = 2048;
    std::int64_t window = 0;     ///< sliding window, 0: none
    std::vector<bool> windowed;  ///< which layers have it; empty: all
    RotaryConfig rotary;
    RotaryConfig local_rotary;  ///< of windowed layers, where that differs (dimensions > 0)
    double rms_epsilon = 1e-6;
    Activation activation = Activation::silu;
    bool tied = false;               ///< the head is the embedding table
    bool qkv_bias = false;           ///< biases on query, key and value
    bool output_bias = false;        ///< on the projection behind attention
    bool mlp_bias = false;           ///< on gate, up and down
    bool head_norms = false;         ///< RMSNorm of every query and key head, before the rotation
    bool branch_norms = false;       ///< RMSNorm of what attention and MLP add to the hidden state
    bool fused_projections = false;  ///< the folder has q, k, v in one matrix and gate, up in one; split by the import
    double norm_offset = 0;          ///< added to the folder's norm weights by the import: Gemma keeps w - 1
    double attention_cap = 0;        ///< of attention scores: cap * tanh(score / cap); 0: none
    double logit_cap = 0;            ///< of logits, likewise
    double embedding_scale = 1;      ///< hidden = scale * embedding
    std::string json;                ///< the config.json it came from, stored in every file

    std::int64_t window_of(std::int64_t layer) const {
        return windowed.empty() || windowed[static_cast<std::size_t>(layer)] ? window : 0;
    }
    bool local(std::int64_t layer) const { return local_rotary.dimensions > 0 && window_of(layer) > 0; }
};

/// Parses a Hugging Face config.json. A key that changes the mathematics and is not supported is an Error that names
/// it, as is a missing or impossible value, and a key that nobody knows; source names the file in errors.
ModelConfig parse_config(const std::string& json, const std::string& source);

}  // namespace pvtune
