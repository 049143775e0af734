#include "host/model/embedding.h"

namespace pvtune {

float embedding_scale(const ModelConfig& config, DType precision) {
    const auto scale = static_cast<float>(config.embedding_scale);
    return precision == DType::bf16 ? to_float(to_bf16(scale)) : scale;
}

void embed(Ops& ops, const Model& model, Tensor hidden, Tensor tokens) {
    ops.embedding_forward(hidden, model.embedding, tokens);
    if (model.config.embedding_scale != 1) ops.scale(hidden, embedding_scale(model.config, model.precision));
}

void embed_backward(Ops& ops, const Model& model, Tensor d_table, Tensor d_hidden, Tensor tokens) {
    if (model.config.embedding_scale != 1) ops.scale(d_hidden, embedding_scale(model.config, model.precision));
    ops.embedding_backward(d_table, d_hidden, tokens);
}

}  // namespace pvtune
