#pragma once

// What launchers size their grids and shared memory by. The figures of the current device; each call costs less than a
// microsecond.

#include "cuda/runtime.h"

#include <cstddef>

namespace pvtune::cuda {

inline int limit_of_device(cudaDeviceAttr attribute) {
    int device = 0;
    int value = 0;
    check(cudaGetDevice(&device), "the current device");
    check(cudaDeviceGetAttribute(&value, attribute, device), "a limit of the device");
    return value;
}

inline int multiprocessors() { return limit_of_device(cudaDevAttrMultiProcessorCount); }

/// Shared memory that a block has without being asked for more, static and dynamic together.
inline constexpr std::size_t shared_bytes_without_asking = 48 * 1024;

/// The most static shared memory of a kernel that also has dynamic one; the emulated device holds kernels to it.
inline constexpr std::size_t most_static_beside_dynamic = 16 * 1024;

/// Of one block, static and dynamic together.
inline int most_shared_bytes() { return limit_of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

}  // namespace pvtune::cuda
