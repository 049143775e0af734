#pragma once

#include "host/model/block.h"

namespace pvtune {

/// A model of one block and no embedding nor head, whose dense weights take those of any block in turn: what works
/// block by block. length: positions that the rotary tables cover.
Model allocate_single_block(Backend& backend, const ModelConfig& config, DType precision, std::int64_t length);

/// Fills it with block i of a dense store, whose names its matrices take. Throws Error where that block is quantised.
void read_single_block(Backend& backend, Model& model, const StoreReader& store, std::int64_t i);

/// The tensors of block i, in file order.
std::vector<TensorSpec> block_specs(const ModelConfig& config, std::int64_t i);

/// The parameters of a block that stay dense, under their names in block i: norms and biases, f32.
std::vector<std::pair<std::string, Tensor>> dense_parameters(const Block& block, const ModelConfig& config,
                                                             std::int64_t i);

}  // namespace pvtune
