#pragma once

// What launchers size their grids and shared memory by. The figures of the current device; each call costs less than a
// microsecond.

#include "cuda/runtime.h"

namespace pvtune::cuda {

inline int limit_of_device(cudaDeviceAttr attribute) {
    int device = 0;
    int value = 0;
    check(cudaGetDevice(&device), "the current device");
    check(cudaDeviceGetAttribute(&value, attribute, device), "a limit of the device");
    return value;
}

inline int multiprocessors() { return limit_of_device(cudaDevAttrMultiProcessorCount); }

/// Of one block, static and dynamic together.
inline int most_shared_bytes() { return limit_of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

}  // namespace pvtune::cuda
