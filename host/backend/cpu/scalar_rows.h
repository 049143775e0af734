#pragma once

#include "host/backend/cpu/chunks.h"

namespace pvtune::cpu {

inline std::int64_t grids_a_row(const ScalarCodes& scalar) { return chunk_count(scalar.codes.dim(1), scalar.group); }

/// The flat index of the grid of weight `at`.
inline std::int64_t grid_of(const ScalarCodes& scalar, std::int64_t at) {
    const std::int64_t columns = scalar.codes.dim(1);
    return at / columns * grids_a_row(scalar) + at % columns / scalar.group;
}

/// Calls body(grid, begin, end) for every grid of the rows [first, last): its flat index, its weights'.
template <class Body>
void for_grids(const ScalarCodes& scalar, std::int64_t first, std::int64_t last, const Body& body) {
    const std::int64_t columns = scalar.codes.dim(1);
    const std::int64_t grids = grids_a_row(scalar);
    for (std::int64_t row = first; row < last; ++row) {
        for (std::int64_t g = 0; g < grids; ++g) {
            body(row * grids + g, row * columns + g * scalar.group,
                 row * columns + std::min(columns, (g + 1) * scalar.group));
        }
    }
}

}  // namespace pvtune::cpu
