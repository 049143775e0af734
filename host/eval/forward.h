#pragma once

#include "host/model/block.h"

namespace pvtune {

/// hidden [batch.tokens(), width] = the last hidden state of the tokens ids (u32, on the device), block after block.
/// activations: of this batch or a larger one.
void forward(Backend& backend, Model& model, Tensor hidden, Tensor ids, const BlockActivations& activations,
             const Batch& batch);

}  // namespace pvtune
