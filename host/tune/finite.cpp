#include "host/tune/finite.h"

#include <cmath>

namespace pvtune {

namespace {

std::string find_in_matrix(Backend& backend, const Matrix& matrix) {
    if (!matrix.quantized) return all_finite(backend, matrix.weight) ? "" : matrix.name;
    for (const ContinuousParameter& parameter : matrix.quantized->parameters()) {
        if (!all_finite(backend, parameter.value)) return matrix.name + "." + parameter.name;
    }
    return "";
}

}  // namespace

bool all_finite(Backend& backend, Tensor tensor) { return std::isfinite(backend.sum_of_squares(tensor)); }

std::string find_not_finite(Backend& backend, Model& model) {
    if (!all_finite(backend, model.embedding)) return "model.embed_tokens.weight";
    for (std::size_t i = 0; i < model.blocks.size(); ++i) {
        const Block& block = model.blocks[i];
        const auto layer = static_cast<std::int64_t>(i);
        fetch_block(backend, model, layer);
        await_block(backend, model, layer);
        for (const auto& [name, tensor] : dense_parameters(block, model.config, layer)) {
            if (!all_finite(backend, tensor)) return name;
        }
        for (const Matrix& matrix : block.matrices) {
            if (std::string name = find_in_matrix(backend, matrix); !name.empty()) return name;
        }
    }
    if (!all_finite(backend, model.final_norm)) return "model.norm.weight";
    return all_finite(backend, model.head) ? "" : "lm_head.weight";
}

}  // namespace pvtune
