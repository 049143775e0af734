#pragma once

#include "host/model/model.h"

namespace pvtune {

/// What the embeddings are multiplied by, in the precision of the model (as Hugging Face rounds it).
float embedding_scale(const ModelConfig& config, DType precision);

/// hidden [tokens, width] before the first block.
void embed(Ops& ops, const Model& model, Tensor hidden, Tensor tokens);
/// d_table (f32) += ...; d_hidden is used up.
void embed_backward(Ops& ops, const Model& model, Tensor d_table, Tensor d_hidden, Tensor tokens);

}  // namespace pvtune
