// Llama 2, 3, 3.1 and what follows them (SmolLM2, ...).

#include "host/model/families/families.h"

#include <nlohmann/json.hpp>

namespace pvtune {

void parse_llama(ConfigKeys& keys, ModelConfig& config) {
    parse_sizes(keys, config);
    expect_activation(keys, "hidden_act", {"silu", "swish"});
    config.rotary.dimensions = config.head_dim;
    parse_rotary(keys, config, config.rotary);
    config.qkv_bias = config.output_bias = keys.boolean("attention_bias", false);
    config.mlp_bias = keys.boolean("mlp_bias", false);
    keys.only("rope_interleaved", false);
    keys.ignore({"is_llama_config"});
}

}  // namespace pvtune
