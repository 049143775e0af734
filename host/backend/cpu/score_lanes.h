#pragma once

// Vector steps of the beam search: comparing a row of scores with a limit, 16 at a time, with and without AVX-512.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace pvtune::cpu {

inline constexpr std::int64_t lanes = 16;
inline constexpr float infinity = std::numeric_limits<float>::infinity();

/// Bit i: values[i] < limit.
inline std::uint32_t below(const float* values, float limit) {
#ifdef __AVX512F__
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_set1_ps(limit), _CMP_LT_OQ);
#else
    std::uint32_t mask = 0;
    for (int i = 0; i < lanes; ++i) mask |= static_cast<std::uint32_t>(values[i] < limit) << i;
    return mask;
#endif
}

/// The next float after a finite number (0: the smallest positive one).
inline float above(float value) {
    if (!(std::abs(value) < infinity)) return value;
    if (value == 0) return std::numeric_limits<float>::denorm_min();
    const auto bits = std::bit_cast<std::int32_t>(value);
    return std::bit_cast<float>(value > 0 ? bits + 1 : bits - 1);
}

/// Writes the k with values[k] < limit, ascending, to found (room for `count` + 16); returns how many there are.
inline std::int64_t find_below(const float* values, std::int64_t count, float limit, std::int32_t* found) {
    std::int64_t number = 0;
#ifdef __AVX512F__
    const __m512 limits = _mm512_set1_ps(limit);
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (std::int64_t k = 0; k < count; k += lanes) {
        const __mmask16 mask = _mm512_cmp_ps_mask(_mm512_loadu_ps(values + k), limits, _CMP_LT_OQ);
        _mm512_storeu_si512(found + number, _mm512_maskz_compress_epi32(mask, index));
        number += __builtin_popcount(mask);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(lanes));
    }
#else
    for (std::int64_t k = 0; k < count; ++k) {
        found[number] = static_cast<std::int32_t>(k);
        number += values[k] < limit;
    }
#endif
    return number;
}

/// A number that at least `width` <= 16 of the scores are below (or infinity): the width-th least of the least scores
/// of 16 interleaved parts. It spares a list of the best most of its insertions.
inline float limit_for(const float* scores, std::int64_t stride, int width) {
    if (width > lanes) return infinity;
    alignas(64) float least[lanes];
#ifdef __AVX512F__
    constexpr __mmask16 every = 0xffff;  // the unmasked form draws a false warning from GCC 12
    __m512 minimum = _mm512_loadu_ps(scores);
    for (std::int64_t k = lanes; k < stride; k += lanes) {
        minimum = _mm512_maskz_min_ps(every, minimum, _mm512_loadu_ps(scores + k));
    }
    _mm512_store_ps(least, minimum);
#else
    std::copy_n(scores, lanes, least);
    for (std::int64_t k = lanes; k < stride; k += lanes) {
        for (int i = 0; i < lanes; ++i) least[i] = scores[k + i] < least[i] ? scores[k + i] : least[i];
    }
#endif
    float limit = -infinity;
    for (int i = 0; i < lanes; ++i) {
        limit = std::max(limit, __builtin_popcount(below(least, least[i])) < width ? least[i] : -infinity);
    }
    return above(limit);
}

}  // namespace pvtune::cpu
