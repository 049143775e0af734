#pragma once

#include <cstdint>
#include <string>

namespace pvtune {

/// The Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
struct ModelConfig {
    std::int64_t vocabulary = 0;
    std::int64_t width = 0;         ///< hidden_size
    std::int64_t intermediate = 0;  ///< intermediate_size of the MLP
    std::int64_t layers = 0;
    std::int64_t heads = 0;
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;
    std::int64_t max_positions = 0;
    std::int64_t window = 0;  ///< sliding window, 0: none
    double rope_theta = 10000;
    double rms_epsilon = 1e-5;
    bool tied = false;            ///< the head is the embedding table
    bool attention_bias = false;  ///< biases on q, k, v and o
    bool mlp_bias = false;
    std::string json;  ///< the config.json it came from, stored in every file
};

/// Parses a Hugging Face config.json. A key that changes the mathematics and is not supported is an Error that names
/// it, as is a missing or impossible value; source names the file in errors.
ModelConfig parse_config(const std::string& json, const std::string& source);

}  // namespace pvtune
