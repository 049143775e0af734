// Gemma 3, the text models: Gemma's scaled embedding, gelu and norms by 1 + weight, also behind attention and MLP,
// norms of heads, and windows in all but every sixth layer, with rotary frequencies of their own.

#include "host/model/families/families.h"

#include <nlohmann/json.hpp>

namespace pvtune {

void parse_gemma3(ConfigKeys& keys, ModelConfig& config) {
    config.max_positions = 131072;
    config.head_norms = true;
    parse_gemma(keys, config);
    config.logit_cap = parse_cap(keys, "final_logit_softcapping", 0);
    const std::int64_t written = keys.integer("_sliding_window_pattern", 1, 4096, 6);
    const std::int64_t pattern = keys.integer("sliding_window_pattern", 1, 4096, written);
    parse_layer_types(keys, config, [&](std::int64_t i) { return (i + 1) % pattern != 0; });

    config.rotary.theta = 1e6;
    config.rotary.dimensions = config.local_rotary.dimensions = config.head_dim;
    config.local_rotary.theta = keys.positive("rope_local_base_freq", 10000);
    if (keys.has("rope_parameters") && keys.object("rope_parameters").has("full_attention")) {
        ConfigKeys both = keys.object("rope_parameters");
        parse_rotary_object(both.object("full_attention"), config, config.rotary);
        if (both.has("sliding_attention")) {
            parse_rotary_object(both.object("sliding_attention"), config, config.local_rotary);
        }
        both.ignore({"sliding_attention"});
        both.refuse_rest();
        keys.only("rope_scaling", nullptr);
    } else {
        parse_rotary(keys, config, config.rotary);
    }
    if (config.rotary.scaling == RotaryScaling::longrope || config.local_rotary.scaling == RotaryScaling::longrope) {
        keys.fail("long rope is not supported for gemma3_text");
    }
    scale_attention(keys, config);
}

}  // namespace pvtune
