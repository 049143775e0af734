#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pvtune {

/// R R^T = H + damping I with R upper triangular: the factor by which the rounding error of a column is made good in
/// the columns behind it. The rows of the upper Cholesky factor of the inverse, which GPTQ (Frantar et al. 2022) works
/// with, are those of R^-1; with the columns of R over their diagonals the same result needs no inverse (LDLQ; QuIP,
/// Chee et al. 2023, theorem 6).
struct DampedFactor {
    std::vector<float> transposed;  ///< [n, n]: row j holds R[0 .. j, j], then zeros
    double damping = 0;
};

/// The factor of hessian [n, n] (symmetric) with rows and columns in this order. The damping is a hundredth of the mean
/// diagonal; where that does not do in f32 it is tried in f64, and there with ten times as much up to three times. None
/// for a Hessian that is not finite, zero or negative in the mean, or beyond such damping. Same bits for any number of
/// threads.
std::optional<DampedFactor> damped_factor(std::span<const float> hessian, std::int64_t n,
                                          std::span<const std::uint32_t> order);

/// Columns by falling diagonal, ties in their own order (GPTQ's act-order).
std::vector<std::uint32_t> falling_diagonal(std::span<const float> hessian, std::int64_t n);

}  // namespace pvtune
