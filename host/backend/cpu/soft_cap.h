#pragma once

#include "host/backend/cpu/simd.h"

#include <cmath>

namespace pvtune::cpu {

/// cap * tanh(value / cap), tanh by way of exp(-2 |y|), which loops can vectorise.
inline float soft_capped(float value, float cap) {
    const float shrunk = exponential(-2.0F * std::fabs(value) / cap);
    return std::copysign(cap * (1.0F - shrunk) / (1.0F + shrunk), value);
}

/// Its derivative, from the capped value.
inline float soft_cap_slope(float capped, float cap) { return 1.0F - capped / cap * (capped / cap); }

}  // namespace pvtune::cpu
