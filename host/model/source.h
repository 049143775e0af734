#pragma once

#include "host/model/model.h"

namespace pvtune {

/// A tensor of a Hugging Face folder and the tensors of ours that lie in it, one below the other. Exporters go the
/// other way.
struct SourceTensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<TensorSpec> parts;
    double offset = 0;  ///< ours = theirs + offset, in f32 where it is not 0
};

/// What a folder of a model of this config holds.
std::vector<SourceTensor> source_tensors(const ModelConfig& config);

}  // namespace pvtune
