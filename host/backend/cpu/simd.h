#pragma once

#include "host/backend/tensor.h"

#include <bit>
#include <stdexcept>
#include <string>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace pvtune::cpu {

/// exp(x) to about 2 units in the last place, in straight-line code that compilers vectorise. x is held within +-80, so
/// that neither exp(x) nor its products with ordinary values are subnormal, which costs x86 a hundred cycles each.
inline float exponential(float x) {
    constexpr float log2_e = 1.44269504F;
    constexpr float ln2_high = 0.693359375F;
    constexpr float ln2_low = -2.12194440e-4F;
    constexpr float round_magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
    x = x < -80.0F ? -80.0F : x;
    x = x > 80.0F ? 80.0F : x;
    const float shifted = x * log2_e + round_magic;
    const float power = shifted - round_magic;
    const float f = (x - power * ln2_high) - power * ln2_low;
    // Minimax polynomial of exp on [-ln 2 / 2, ln 2 / 2] (Cephes, expf).
    float p = 1.9875691500e-4F;
    p = p * f + 1.3981999507e-3F;
    p = p * f + 8.3334519073e-3F;
    p = p * f + 4.1665795894e-2F;
    p = p * f + 1.6666665459e-1F;
    p = p * f + 5.0000001201e-1F;
    p = p * f * f + f + 1.0F;
    const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) + 127U) << 23;
    return p * std::bit_cast<float>(exponent);
}

#ifdef __AVX512F__
/// The same of 16 values, for x up to 80.
inline __m512 exponential(__m512 x) {
    const auto fused = [](__m512 a, __m512 b, float c) { return _mm512_fmadd_ps(a, b, _mm512_set1_ps(c)); };
    x = _mm512_max_ps(_mm512_set1_ps(-80.0F), x);  // in this order a NaN stays one
    const __m512 power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504F)), 8);  // no exceptions
    __m512 f = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693359375F), x);
    f = _mm512_fnmadd_ps(power, _mm512_set1_ps(-2.12194440e-4F), f);
    __m512 p = fused(_mm512_set1_ps(1.9875691500e-4F), f, 1.3981999507e-3F);
    p = fused(p, f, 8.3334519073e-3F);
    p = fused(p, f, 4.1665795894e-2F);
    p = fused(p, f, 1.6666665459e-1F);
    p = fused(p, f, 5.0000001201e-1F);
    p = _mm512_fmadd_ps(_mm512_mul_ps(p, f), f, _mm512_add_ps(f, _mm512_set1_ps(1.0F)));
    return _mm512_scalef_ps(p, power);
}
#endif

/// Calls body(T{}) with the element type of an activation tensor.
template <class Body>
void with_element(DType dtype, Body&& body) {
    switch (dtype) {
        case DType::f32:
            body(float{});
            return;
        case DType::bf16:
            body(bf16{});
            return;
        default:
            throw std::logic_error("no activations of type " + std::string(name_of(dtype)));
    }
}

/// Sums over tokens run in this many parts, whatever the number of threads, so that their bits do not depend on it.
inline constexpr std::int64_t sum_parts = 32;

}  // namespace pvtune::cpu
