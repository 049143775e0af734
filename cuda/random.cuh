#pragma once

// Numbers by chance that depend on a seed and an index alone: the same as in host/quant/random.h.

#include "cuda/device.cuh"

namespace pvtune::cuda {

/// Number i of the seed: splitmix64 (Steele et al. 2014).
__device__ inline std::uint64_t bits_at(std::uint64_t seed, std::uint64_t i) {
    constexpr std::uint64_t step = 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = seed + (i + 1) * step;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

/// Number i of the seed, in (0, 1).
__device__ inline float uniform_at(std::uint64_t seed, std::uint64_t i) {
    return (static_cast<float>(bits_at(seed, i) >> 41) + 0.5F) * 1.1920928955078125e-7F;  // 2^-23
}

}  // namespace pvtune::cuda
