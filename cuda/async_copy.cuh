#pragma once

// Copies from device to shared memory that run beside the arithmetic (cp.async, sm_80 and newer). Data may be read
// after async_wait() and a barrier.

#include "cuda/device.cuh"

namespace pvtune::cuda {

#ifdef __CUDACC__

/// 16 bytes, both addresses 16-byte aligned; only the first `valid` are read, the rest becomes zero.
__device__ inline void async_copy_16(void* shared, const void* global, int valid = 16) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global), "r"(valid) : "memory");
}

/// Closes a group of the copies started since the last one.
__device__ inline void async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

/// Waits until at most `pending` of the newest groups of this thread are still under way.
template <int pending>
__device__ inline void async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

#else

using emulation::async_commit;
using emulation::async_copy_16;
using emulation::async_wait;

#endif

}  // namespace pvtune::cuda
