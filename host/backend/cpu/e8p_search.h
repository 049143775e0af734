#pragma once

#include <cstdint>
#include <vector>

namespace pvtune::cpu {

/// The points of the codebooks of cuda/e8p.h, decoded.
struct E8pPoints {
    std::vector<std::int8_t> quarters;  ///< [65536, 8]: four times a point of E8P
    std::vector<std::int8_t> halves;    ///< [256, 8]: twice a point of the residual's codebook
};
const E8pPoints& e8p_points();

/// The code of the point of E8P nearest to x [8]; ties go to a shift of -1/4, then to the lower entry of the table,
/// then to the sign change at the lower coordinate.
std::uint32_t nearest_e8p(const float* x);
/// Likewise in the residual's codebook of 256 points; ties: the lower code.
std::uint32_t nearest_residual(const float* x);
/// The nearest of the other codes.
std::uint32_t nearest_other_e8p(const float* x, std::uint32_t excluded);
std::uint32_t nearest_other_residual(const float* x, std::uint32_t excluded);

/// A group of 8 weights is `bytes` bytes of codes, low byte first: an E8P code (2), then an 8-bit code of the residual
/// (3) or one more E8P code (4).
void decode_group(float* values, const std::uint8_t* codes, std::int64_t bytes);
/// Codes of the nearest point of E8P, then of the point nearest to what is left.
void encode_group(std::uint8_t* codes, const float* x, std::int64_t bytes);
/// The nearest of the groups that differ from this one in one code; ties: in the first.
void change_one_code(std::uint8_t* codes, const float* x, std::int64_t bytes);
/// |x - decoded codes|^2.
float group_distance(const float* x, const std::uint8_t* codes, std::int64_t bytes);

}  // namespace pvtune::cpu
