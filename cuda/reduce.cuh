#pragma once

// Sums and maxima over a warp and a block, in an order that does not depend on the schedule: the same bits every run.

#include "cuda/device.cuh"

namespace pvtune::cuda {

/// The sum over the whole warp, in every lane.
template <class T>
__device__ inline T warp_sum(T value) {
    for (int offset = warp_size / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(whole_warp, value, offset);
    return value;
}

__device__ inline float warp_max(float value) {
    for (int offset = warp_size / 2; offset > 0; offset /= 2) {
        value = fmaxf(value, __shfl_xor_sync(whole_warp, value, offset));
    }
    return value;
}

/// The sum over a one-dimensional block of whole warps, in every thread. `partials`: shared, one element a warp; may be
/// used again after the call, for every thread has read it.
template <class T>
__device__ inline T block_sum(T value, T* partials) {
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    const int warps = static_cast<int>(blockDim.x) / warp_size;
    value = warp_sum(value);
    if (threadIdx.x % warp_size == 0) partials[warp] = value;
    __syncthreads();
    T total = partials[0];
    for (int i = 1; i < warps; ++i) total += partials[i];
    __syncthreads();
    return total;
}

/// The maximum, likewise.
__device__ inline float block_max(float value, float* partials) {
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    const int warps = static_cast<int>(blockDim.x) / warp_size;
    value = warp_max(value);
    if (threadIdx.x % warp_size == 0) partials[warp] = value;
    __syncthreads();
    float largest = partials[0];
    for (int i = 1; i < warps; ++i) largest = fmaxf(largest, partials[i]);
    __syncthreads();
    return largest;
}

}  // namespace pvtune::cuda
