// Phi-3, Phi-3.5, Phi-4-mini: q, k, v in one matrix of the folder and gate, up in another, heads of which a part may
// stay unrotated, long rope.

#include "host/model/families/families.h"

#include <nlohmann/json.hpp>

namespace pvtune {

void parse_phi3(ConfigKeys& keys, ModelConfig& config) {
    config.max_positions = 4096;
    config.rms_epsilon = 1e-5;
    config.fused_projections = true;
    parse_sizes(keys, config);
    expect_activation(keys, "hidden_act", {"silu", "swish"});
    config.rotary.dimensions = rotary_dimensions(keys, config);
    config.rotary.original_positions = keys.integer("original_max_position_embeddings", 2, std::int64_t{1} << 40, 4096);
    parse_rotary(keys, config, config.rotary);
    config.window = keys.integer("sliding_window", 1, std::int64_t{1} << 40, 0);
    keys.ignore({"resid_pdrop", "embd_pdrop"});  // of training
    keys.only("attention_bias", false);
    keys.only("mlp_bias", false);
    // Phi-4-mini's own, read by the code that came with it: every layer alike, positions as they are.
    keys.only("full_attn_mod", 1);
    keys.only("interpolate_factor", 1);
    keys.only("lm_head_bias", false);
}

}  // namespace pvtune
