#pragma once

#include "tests/emulation/cuda_runtime_api.h"

namespace pvtune::cuda::emulation {

/// What cudaGetLastError() gives: every host thread keeps the last of its calls that failed.
inline thread_local cudaError_t last_error = cudaSuccess;

/// The status of a call, kept if it failed.
inline cudaError_t kept(cudaError_t status) {
    if (status != cudaSuccess) last_error = status;
    return status;
}

}  // namespace pvtune::cuda::emulation
