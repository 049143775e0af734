#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pvtune {

/// What LDLQ feeds back: with H = (U + I) D (U + I)^T, U strictly block upper triangular in blocks of 8, D block
/// diagonal (Chee et al. 2023; Tseng et al. 2024, section 4.1), the rows above the diagonal of every block of columns:
/// block k is [8k, 8] at feedback_offset(k). H is damped with 1 % of its mean diagonal, ten times that on failure,
/// again up to all of it; where that fails as well (or H is not finite) U is 0, which rounds to the nearest.
std::vector<float> ldlq_feedback(std::span<const float> hessian, std::int64_t columns);

constexpr std::int64_t feedback_offset(std::int64_t block) { return 32 * block * (block - 1); }

/// Codes (`bytes` a group of 8, see host/backend/cpu/e8p_search.h) of target [rows, columns]: block by block, each
/// rounded to the nearest point after adding what the errors of the blocks before it call for, so that the error E of
/// the decoded codes has a small tr(E H E^T).
std::vector<std::uint8_t> ldlq(std::span<const float> target, std::int64_t rows, std::int64_t columns,
                               std::int64_t bytes, std::span<const float> feedback);

}  // namespace pvtune
