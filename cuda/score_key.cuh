#pragma once

// The order of scores as an order of whole numbers.

#include "cuda/device.cuh"

namespace pvtune::cuda {

/// Grows with the score; a NaN is below everything, and -0 equals 0.
__device__ inline std::uint32_t key_of(float score) {
    const std::uint32_t bits = __float_as_uint(score);
    const std::uint32_t magnitude = bits & 0x7fffffffU;
    if (magnitude > 0x7f800000U) return 0U;
    if (magnitude == 0) return 0x80000000U;
    return bits != magnitude ? ~bits : bits | 0x80000000U;
}

}  // namespace pvtune::cuda
