#pragma once

// Products of many rows with one triangle or symmetric matrix: a tile of rows stands side by side, so that one number
// of the matrix meets all of them at once.

#include <algorithm>
#include <cstdint>

namespace pvtune::cpu {

inline constexpr std::int64_t tile_rows = 64;
inline constexpr int tile_columns = 4;  ///< that are summed together: 16 vectors in registers

/// values[row] of a tile's rows, at one column.
struct TileColumn {
    alignas(64) float values[tile_rows];
};

/// sums[c][row] = sum over i < count of matrix[first + c, i] * tile[i][row]; matrix [n, n] row-major. Rows of the
/// matrix past its end are summed like the last one.
inline void multiply_tile(TileColumn (&sums)[tile_columns], const TileColumn* tile, const float* matrix, std::int64_t n,
                          std::int64_t first, std::int64_t count) {
    using Vector [[gnu::vector_size(64), gnu::may_alias]] = float;
    constexpr int vectors = tile_rows * sizeof(float) / sizeof(Vector);
    Vector partial[tile_columns][vectors] = {};
    const float* rows[tile_columns];
    for (int c = 0; c < tile_columns; ++c) rows[c] = matrix + std::min(first + c, n - 1) * n;
    for (std::int64_t i = 0; i < count; ++i) {
        const auto* values = reinterpret_cast<const Vector*>(tile[i].values);
        for (int c = 0; c < tile_columns; ++c) {
            const float factor = rows[c][i];
            for (int v = 0; v < vectors; ++v) partial[c][v] += factor * values[v];
        }
    }
    for (int c = 0; c < tile_columns; ++c) {
        auto* to = reinterpret_cast<Vector*>(sums[c].values);
        for (int v = 0; v < vectors; ++v) to[v] = partial[c][v];
    }
}

}  // namespace pvtune::cpu
