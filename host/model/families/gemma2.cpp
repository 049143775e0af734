// Gemma 2: scaled embedding, gelu, norms by 1 + weight, also behind attention and MLP, capped attention scores and
// logits, windows in every other layer.

#include "host/model/families/families.h"

#include <nlohmann/json.hpp>

namespace pvtune {

void parse_gemma2(ConfigKeys& keys, ModelConfig& config) {
    config.max_positions = 8192;
    parse_gemma(keys, config);
    config.attention_cap = parse_cap(keys, "attn_logit_softcapping", 50);
    config.logit_cap = parse_cap(keys, "final_logit_softcapping", 30);
    parse_layer_types(keys, config, [](std::int64_t i) { return i % 2 == 0; });
    config.rotary.dimensions = config.head_dim;
    parse_rotary(keys, config, config.rotary);
    scale_attention(keys, config);
}

}  // namespace pvtune
