#include "host/tune/finite.h"

#include <cmath>

namespace pvtune {

namespace {

std::string find_in_matrix(Ops& ops, const Matrix& matrix) {
    if (!matrix.bias.empty() && !all_finite(ops, matrix.bias)) return "the bias of " + matrix.name;
    if (!matrix.quantized) return all_finite(ops, matrix.weight) ? "" : matrix.name;
    for (const ContinuousParameter& parameter : matrix.quantized->parameters()) {
        if (!all_finite(ops, parameter.value)) return matrix.name + "." + parameter.name;
    }
    return "";
}

}  // namespace

bool all_finite(Ops& ops, Tensor tensor) { return std::isfinite(ops.sum_of_squares(tensor)); }

std::string find_not_finite(Ops& ops, const Model& model) {
    if (!all_finite(ops, model.embedding)) return "model.embed_tokens.weight";
    for (std::size_t i = 0; i < model.blocks.size(); ++i) {
        const Block& block = model.blocks[i];
        const std::string prefix = "model.layers." + std::to_string(i) + ".";
        if (!all_finite(ops, block.attention_norm)) return prefix + "input_layernorm.weight";
        if (!all_finite(ops, block.mlp_norm)) return prefix + "post_attention_layernorm.weight";
        for (const Matrix& matrix : block.matrices) {
            if (std::string name = find_in_matrix(ops, matrix); !name.empty()) return name;
        }
    }
    if (!all_finite(ops, model.final_norm)) return "model.norm.weight";
    return all_finite(ops, model.head) ? "" : "lm_head.weight";
}

}  // namespace pvtune
