#pragma once

// What the kernels on scalar grids share: the check of a geometry and the way from a weight to its grid.

#include "cuda/additive.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

inline void check_scalar(const ScalarView& scalar) {
    if (scalar.group < 1 || scalar.levels < 2 || scalar.levels > 256 || scalar.rows * scalar.columns > 0xffffffffLL) {
        throw std::invalid_argument("scalar grids on the device: " + std::to_string(scalar.rows) + " x " +
                                    std::to_string(scalar.columns) + " weights in groups of " +
                                    std::to_string(scalar.group) + " with " + std::to_string(scalar.levels) +
                                    " levels");
    }
}

inline std::int64_t grids_a_row(const ScalarView& scalar) { return ceil_divide(scalar.columns, scalar.group); }

/// From the flat index of `piece` weights in a row and a grid to that of the grid.
struct GridFinder {
    Divisor columns, group;
    std::uint32_t pieces_a_row, grids;

    GridFinder(const ScalarView& scalar, int piece)
        : columns(scalar.columns / piece),
          group(ceil_divide(scalar.group, piece)),
          pieces_a_row(static_cast<std::uint32_t>(scalar.columns / piece)),
          grids(static_cast<std::uint32_t>(grids_a_row(scalar))) {}
    __device__ std::uint32_t grid_of(std::uint32_t index) const {
        const std::uint32_t row = columns.quotient(index);
        return row * grids + group.quotient(index - row * pieces_a_row);
    }
};

/// Whether every piece of so many weights lies in one row and one grid, aligned.
inline bool in_pieces(const ScalarView& scalar, int piece) {
    return scalar.columns % piece == 0 && (scalar.group % piece == 0 || scalar.group >= scalar.columns);
}

/// Codes of `piece` (1, 4 or 8) weights, aligned to their number.
template <int piece>
__device__ inline void load_codes(float (&values)[piece], const std::uint8_t* from) {
    if constexpr (piece == 1) {
        values[0] = static_cast<float>(*from);
    } else {
        std::uint32_t words[piece / 4];
        if constexpr (piece == 4) {
            words[0] = *reinterpret_cast<const std::uint32_t*>(from);
        } else {
            const uint2 both = *reinterpret_cast<const uint2*>(from);
            words[0] = both.x;
            words[1] = both.y;
        }
        for (int i = 0; i < piece; ++i) values[i] = static_cast<float>(words[i / 4] >> (i % 4 * 8) & 0xffU);
    }
}

}  // namespace pvtune::cuda
