#pragma once

#include <cstddef>

/// The emulated device: an H100's limits for a block, few multiprocessors and a small cache, so that what is sized by
/// them is small.
namespace pvtune::cuda::emulation {

inline constexpr int warp_lanes = 32;
inline constexpr int most_threads = 1024;
inline constexpr int most_shared_bytes = 227 * 1024;
inline constexpr int multiprocessors = 4;
inline constexpr int l2_bytes = 1 << 20;

}  // namespace pvtune::cuda::emulation
