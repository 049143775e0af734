// Qwen2, Qwen2.5: biases on query, key and value; where it is asked for, a sliding window in the upper layers.

#include "host/model/families/families.h"

#include <nlohmann/json.hpp>

namespace pvtune {

void parse_qwen2(ConfigKeys& keys, ModelConfig& config) {
    config.max_positions = 32768;
    config.qkv_bias = true;
    parse_sizes(keys, config);
    expect_activation(keys, "hidden_act", {"silu", "swish"});
    config.rotary.dimensions = config.head_dim;
    parse_rotary(keys, config, config.rotary);
    parse_upper_windows(keys, config);
    keys.only("use_mrope", false);
}

}  // namespace pvtune
