#pragma once

#include "host/backend/cpu/simd.h"

#include <cmath>

namespace pvtune::cpu {

/// cap * tanh(value / cap) to a few units in the last place, in straight-line code that compilers vectorise. Far from
/// zero tanh y = (1 - e) / (1 + e), e = exp(-2 |y|), which cancels near it: there a polynomial (Cephes, tanhf).
inline float soft_capped(float value, float cap) {
    constexpr float near_zero = 0.625F;
    const float y = value / cap;
    const float shrunk = exponential(-2.0F * std::fabs(y));
    const float far = std::copysign((1.0F - shrunk) / (1.0F + shrunk), y);
    const float square = y * y;
    float p = -5.70498872745e-3F;
    p = p * square + 2.06390887954e-2F;
    p = p * square - 5.37397155531e-2F;
    p = p * square + 1.33314422036e-1F;
    p = p * square - 3.33332819422e-1F;
    const float near = p * square * y + y;
    return cap * (std::fabs(y) < near_zero ? near : far);
}

/// Its derivative, from the capped value.
inline float soft_cap_slope(float capped, float cap) { return 1.0F - capped / cap * (capped / cap); }

}  // namespace pvtune::cpu
