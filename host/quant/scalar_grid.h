#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

namespace pvtune {

/// The values scale * (code - zero) of the codes 0 .. levels - 1.
struct Grid {
    float scale = 0;
    float zero = 0;

    float value(float code) const { return scale * (code - zero); }
};

/// The nearest code of a finite weight, ties to the lower: the rule of assign_scalar.
inline float nearest_code(float weight, const Grid& grid, float highest) {
    return std::clamp(std::ceil(weight / grid.scale + grid.zero - 0.5F), 0.0F, highest);
}

/// The grid with the least sum of importance * (weight - value)^2 among clipped ranges, then fitted to its codes; scale
/// and zero have the 16 bits of the file. importance may be empty. The scale is positive, and infinite where 16 bits do
/// not hold it.
Grid fit_grid(std::span<const float> weights, std::span<const float> importance, std::int64_t levels);

}  // namespace pvtune
