#pragma once

// What a kernel file includes first. nvcc compiles it for the device; g++ compiles the same file against
// tests/emulation/cuda_on_cpu.h, which executes the CUDA model on the CPU (docs/kernels.md). So that both can:
// kernels start through launch() only, dynamic shared memory comes from dynamic_shared() only, and PTX stays in
// async_copy.cuh, fast_math.cuh and mma.cuh.

#include "cuda/device_limits.h"
#include "cuda/runtime.h"
#include "io/dtype.h"

#include <cstdint>

#ifdef __CUDACC__

#include <cuda_runtime.h>

#include "cuda/launch_grid.h"

namespace pvtune::cuda {

/// The dynamic shared memory of the block, 128-byte aligned as the launch gave it.
template <class T>
__device__ T* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];
    return reinterpret_cast<T*>(dynamic_shared_bytes);
}

/// Starts kernel<<<grid, block, shared_bytes, stream>>>(arguments...). Throws CudaError that names the line of the
/// call.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchGrid& grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Arguments... arguments) {
    if (shared_bytes > shared_bytes_without_asking - most_static_beside_dynamic) {
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
              "dynamic shared memory of a kernel", grid.where);
    }
    kernel<<<grid.blocks, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
    check(cudaGetLastError(), "the launch of a kernel", grid.where);
}

}  // namespace pvtune::cuda

#else

#include "cuda_on_cpu.h"

#endif

namespace pvtune::cuda {

inline constexpr int warp_size = 32;
inline constexpr unsigned whole_warp = 0xffffffffU;

constexpr std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace pvtune::cuda
