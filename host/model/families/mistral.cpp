// Mistral: Llama with a sliding window in every layer.

#include "host/model/families/families.h"

#include <nlohmann/json.hpp>

namespace pvtune {

void parse_mistral(ConfigKeys& keys, ModelConfig& config) {
    config.max_positions = 4096 * 32;
    parse_sizes(keys, config);
    expect_activation(keys, "hidden_act", {"silu", "swish"});
    config.rotary.dimensions = config.head_dim;
    parse_rotary(keys, config, config.rotary);
    config.window = parse_window(keys);
    keys.only("attention_bias", false);
    keys.only("mlp_bias", false);
}

}  // namespace pvtune
