#pragma once

#include <cstdint>
#include <vector>

namespace pvtune {

/// An orthonormal symmetric transform of any size, its own inverse: M (x) S with S Sylvester's Hadamard matrix of size
/// 2^a and M a dense symmetric factor for what is left (element b * 2^a + t of a vector is row b of M, t of S).
/// M is a Hadamard matrix by Paley's constructions where there is one of order 4, 8, ... times the odd part of the size
/// that is at most 64 (12, 20, 28, 36, ...); else a stand-in of the odd part itself, the discrete Hartley transform
/// cos + sin of 2 pi i j / order, whose entries are at most sqrt(2) times as large.
struct HadamardFactor {
    std::int64_t order = 1;
    std::vector<float> matrix;  ///< [order, order], times 1 / sqrt(2^a)
};

/// Order of M: 1 for powers of two.
std::int64_t hadamard_order(std::int64_t size);

/// The factor of a size; made on the first call and kept.
const HadamardFactor& hadamard_factor(std::int64_t size);

}  // namespace pvtune
