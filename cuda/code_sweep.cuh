#pragma once

// What the kernels of a block of columns share: eight lanes a row, and the shares of the block in shared memory.

#include "cuda/device.cuh"
#include "cuda/kernels.h"

#include <stdexcept>
#include <string>

namespace pvtune::cuda {

inline constexpr int row_lanes = 8;
inline constexpr int lane_columns = static_cast<int>(sweep_columns) / row_lanes;
inline constexpr int sweep_threads = 256;
inline constexpr int sweep_rows = sweep_threads / row_lanes;
inline constexpr int share_stride = static_cast<int>(sweep_columns) + 1;  ///< so that a store's lanes are in many banks
inline constexpr int share_floats = static_cast<int>(sweep_columns) * share_stride;

/// to[i][j] (rows of share_stride) = what of the error of column first + i goes to column first + j, 0 unless i < j <
/// count. A barrier has to follow.
__device__ inline void load_shares(float* to, const float* shares, std::int64_t columns, std::int64_t first,
                                   int count) {
    constexpr int side = static_cast<int>(sweep_columns);
    for (int k = static_cast<int>(threadIdx.x); k < side * side; k += sweep_threads) {
        const int j = k / side;
        const int i = k % side;
        to[i * share_stride + j] = i < j && j < count ? shares[(first + j) * columns + first + i] : 0.0F;
    }
}

inline void check_block(const char* kernel, std::int64_t columns, std::int64_t first, std::int64_t count) {
    if (count >= 0 && count <= sweep_columns && first >= 0 && first + count <= columns) return;
    throw std::invalid_argument(std::string(kernel) + ": columns " + std::to_string(first) + " to " +
                                std::to_string(first + count) + ", not at most " + std::to_string(sweep_columns) +
                                " of " + std::to_string(columns));
}

inline unsigned sweep_blocks(std::int64_t rows) { return static_cast<unsigned>(ceil_divide(rows, sweep_rows)); }

}  // namespace pvtune::cuda
