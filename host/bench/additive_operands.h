#pragma once

#include "host/bench/registry.h"

#include <algorithm>
#include <array>

namespace pvtune {

/// Additive codebooks that entries exist for: AQLM 2x8 and 1x16, and vector quantisation with 256 codewords, all with
/// groups of 8 weights.
struct AdditiveFormat {
    const char* name;
    std::int64_t books;
    int code_bits;
    int beam;  ///< of the search: the published ones

    DType code_dtype() const { return code_bits <= 8 ? DType::u8 : DType::u16; }
    std::int64_t codebook_size() const { return std::int64_t{1} << code_bits; }
};
inline constexpr std::array<AdditiveFormat, 3> additive_formats = {
    {{"2x8", 2, 8, 5}, {"1x16", 1, 16, 1}, {"1x8", 1, 8, 1}}};
inline constexpr std::int64_t additive_group = 8;

/// The share of a matrix's groups that a V step assigns anew.
inline constexpr double chosen_share = 0.01;

inline std::int64_t group_count(const BenchShape& shape) { return shape.intermediate * shape.width / additive_group; }
inline std::int64_t chosen_count(const BenchShape& shape) {
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(chosen_share * static_cast<double>(group_count(shape))));
}

/// The block's largest matrix with random codes.
AdditiveCodes additive_matrix(Operands& operands, const BenchShape& shape, const AdditiveFormat& format);

/// The same on scalar grids.
ScalarCodes scalar_matrix(Operands& operands, const BenchShape& shape);

}  // namespace pvtune
