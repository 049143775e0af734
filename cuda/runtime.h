#pragma once

// The CUDA runtime for host code. <cuda_runtime_api.h> is the toolkit's, or where kernels run on the CPU the one in
// tests/emulation.

#include "cuda/error.h"

#include <cuda_runtime_api.h>

namespace pvtune::cuda {

/// Throws CudaError unless the call succeeded; asked: what it was for, as a noun phrase.
inline void check(cudaError_t status, const char* asked,
                  const std::source_location& where = std::source_location::current()) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // else the next launch would report this failure as its own
    throw CudaError(asked, cudaGetErrorString(status), where);
}

}  // namespace pvtune::cuda
