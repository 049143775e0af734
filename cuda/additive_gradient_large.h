#pragma once

#include "cuda/kernels.h"

namespace pvtune::cuda {

/// What additive_gradient does with codebooks of which shared memory does not hold several copies.
template <class Code>
void large_gradient(float* d_codebooks, float* d_scales, const float* d_weight, const AdditiveView<Code>& additive,
                    void* workspace, Stream stream);
template <class Code>
std::size_t large_gradient_workspace(const AdditiveView<Code>& additive);

}  // namespace pvtune::cuda
