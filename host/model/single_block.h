#pragma once

#include "host/model/block.h"

namespace pvtune {

/// A model of one block and no embedding nor head, whose dense weights take those of any block in turn: what works
/// block by block. length: positions that the rotary tables cover.
Model allocate_single_block(Backend& backend, const ModelConfig& config, DType precision, std::int64_t length);

/// Fills it with block i of a dense store, whose names its matrices take. Throws Error where that block is quantised.
void read_single_block(Backend& backend, Model& model, const StoreReader& store, std::int64_t i);

}  // namespace pvtune
