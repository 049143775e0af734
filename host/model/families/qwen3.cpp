// Qwen3: RMSNorm of every query and key head, before the rotation.

#include "host/model/families/families.h"

#include <nlohmann/json.hpp>

namespace pvtune {

void parse_qwen3(ConfigKeys& keys, ModelConfig& config) {
    config.max_positions = 32768;
    config.head_dim = 128;
    config.head_norms = true;
    parse_sizes(keys, config);
    expect_activation(keys, "hidden_act", {"silu", "swish"});
    config.rotary.dimensions = config.head_dim;
    parse_rotary(keys, config, config.rotary);
    config.qkv_bias = config.output_bias = keys.boolean("attention_bias", false);
    parse_upper_windows(keys, config);
}

}  // namespace pvtune
