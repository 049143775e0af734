#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pvtune {

/// What LDLQ feeds back: with H = (U + I) D (U + I)^T, U strictly block upper triangular in blocks of 8, D block
/// diagonal (Chee et al. 2023; Tseng et al. 2024, section 4.1), U^T [columns, columns]: the shares of Ops::ldlq. H is
/// damped with 1 % of its mean diagonal, ten times that on failure, again up to all of it; where that fails as well (or
/// H is not finite) U is 0, which rounds to the nearest.
std::vector<float> ldlq_shares(std::span<const float> hessian, std::int64_t columns);

}  // namespace pvtune
