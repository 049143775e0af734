#pragma once

// The small matrix products inside attention, in two builds with one interface: blocks of bf16 where a unit multiplies
// them (bf16_blocks.h), and plain f32 loops for everything else. A right operand is packed into panels of 32 columns,
// [step of 32 deep][1024 elements], so that a range of steps is a range of memory in both. All extents are multiples of
// 32; padding is zero.
//
// And what happens to a row between the products. Keys are counted from the row's first element, those in [from, to)
// are seen; results are written up to `padded_keys`, a multiple of 32, zero for keys not seen.

#include "host/backend/cpu/bf16_blocks.h"
#include "host/backend/cpu/simd.h"
#include "host/backend/cpu/soft_cap.h"
#include "io/dtype.h"

#include <algorithm>
#include <cstdint>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace pvtune::cpu {

inline constexpr std::int64_t attention_block = 32;
inline constexpr std::int64_t step_elements = attention_block * attention_block;

constexpr std::int64_t padded(std::int64_t extent) {
    return (extent + attention_block - 1) / attention_block * attention_block;
}

/// What a softmax over a row of scores leaves beside the weights exp(scale (score - largest)).
struct RowStatistics {
    float largest;
    float sum;
};

#ifdef __AVX512BF16__

/// Which of 16 keys, the first being `key`, lie in [from, to).
inline __mmask16 keys_between(std::int64_t key, std::int64_t from, std::int64_t to) {
    const __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 behind = _mm512_cmpge_epi32_mask(index, _mm512_set1_epi32(static_cast<int>(from - key)));
    return _mm512_mask_cmplt_epi32_mask(behind, index, _mm512_set1_epi32(static_cast<int>(to - key)));
}

inline void store_rounded(bf16* to, __m512 first, __m512 second) {
    _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
}

struct BlockProducts {
    using Source = bf16;   ///< what attention is given
    using Element = bf16;  ///< what operands are stored in

    static void enter() { enter_block_products(); }

    /// 32 columns of the right operand from `count` rows that hold `depth` elements each.
    static void pack_rows(Element* panel, const Source* rows, std::int64_t stride, std::int64_t count,
                          std::int64_t depth) {
        pack_right_from_rows(panel, rows, stride, count, depth);
    }
    /// 32 columns of the right operand from a matrix [depth][count].
    static void pack_columns(Element* panel, const Source* matrix, std::int64_t stride, std::int64_t count,
                             std::int64_t depth) {
        pack_right_from_columns(panel, matrix, stride, count, depth);
    }
    /// result [32][result_stride] = left [32 rows, stride apart] * panel over `steps`.
    static void multiply(float* result, std::int64_t result_stride, const Element* left, std::int64_t left_stride,
                         const Element* panel, std::int64_t steps) {
        block_product(result, result_stride, left_rows(left, left_stride), panel, steps);
    }
    /// Packs 32 columns of left [32 * steps][stride] for multiply_packed().
    static void pack_transposed(Element* packed, const Element* left, std::int64_t left_stride, std::int64_t steps) {
        pack_left_from_columns(packed, left, left_stride, attention_block, steps * attention_block);
    }
    static void multiply_packed(float* result, std::int64_t result_stride, const Element* packed, const Element* panel,
                                std::int64_t steps) {
        block_product(result, result_stride, left_panel(packed), panel, steps);
    }

    static RowStatistics softmax(Element* weights, const float* scores, std::int64_t padded_keys, std::int64_t from,
                                 std::int64_t to, float scale) {
        __m512 maxima = _mm512_set1_ps(scores[from]);
        for (std::int64_t j = 0; j < padded_keys; j += 16) {
            maxima = _mm512_mask_max_ps(maxima, keys_between(j, from, to), maxima, _mm512_loadu_ps(scores + j));
        }
        const float largest = _mm512_reduce_max_ps(maxima);
        __m512 sums = _mm512_setzero_ps();
        const auto weigh = [&](std::int64_t j) {
            const __m512 above = _mm512_sub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(largest));
            const __m512 e = exponential(_mm512_mul_ps(above, _mm512_set1_ps(scale)));
            const __m512 weight = _mm512_maskz_mov_ps(keys_between(j, from, to), e);
            sums = _mm512_add_ps(sums, weight);
            return weight;
        };
        for (std::int64_t j = 0; j < padded_keys; j += 32) {
            const __m512 first = weigh(j);
            store_rounded(weights + j, first, weigh(j + 16));
        }
        return {largest, _mm512_reduce_add_ps(sums)};
    }

    /// p = exp(scale score - log_sum), d_scores = scale p (d_weight - shift), times 1 - (scale score / cap)^2 if
    /// capped.
    template <bool capped>
    static void softmax_backward(Element* weights, Element* d_scores, const float* scores, const float* d_weights,
                                 std::int64_t padded_keys, std::int64_t from, std::int64_t to, float scale,
                                 [[maybe_unused]] float cap, float log_sum, float shift) {
        const __m512 scales = _mm512_set1_ps(scale);
        for (std::int64_t j = 0; j < padded_keys; j += 32) {
            __m512 p[2];
            __m512 d[2];
            for (std::int64_t half = 0; half < 2; ++half) {
                const std::int64_t key = j + half * 16;
                const __m512 log_p = _mm512_fmsub_ps(_mm512_loadu_ps(scores + key), scales, _mm512_set1_ps(log_sum));
                p[half] = _mm512_maskz_mov_ps(keys_between(key, from, to), exponential(log_p));
                const __m512 d_p = _mm512_sub_ps(_mm512_loadu_ps(d_weights + key), _mm512_set1_ps(shift));
                d[half] = _mm512_mul_ps(_mm512_mul_ps(p[half], d_p), scales);
                if constexpr (capped) {
                    const __m512 share = _mm512_mul_ps(_mm512_loadu_ps(scores + key), _mm512_set1_ps(scale / cap));
                    d[half] = _mm512_mul_ps(d[half], _mm512_fnmadd_ps(share, share, _mm512_set1_ps(1.0F)));
                }
            }
            store_rounded(weights + j, p[0], p[1]);
            store_rounded(d_scores + j, d[0], d[1]);
        }
    }
};

#endif

template <class T>
struct PlainProducts {
    using Source = T;
    using Element = float;

    static void enter() {}

    static void pack_rows(Element* panel, const Source* rows, std::int64_t stride, std::int64_t count,
                          std::int64_t depth) {
        std::fill_n(panel, padded(depth) * attention_block, 0.0F);
        for (std::int64_t j = 0; j < std::min(count, attention_block); ++j) {
            for (std::int64_t k = 0; k < depth; ++k) panel[k * attention_block + j] = to_float(rows[j * stride + k]);
        }
    }
    static void pack_columns(Element* panel, const Source* matrix, std::int64_t stride, std::int64_t count,
                             std::int64_t depth) {
        std::fill_n(panel, padded(depth) * attention_block, 0.0F);
        for (std::int64_t k = 0; k < depth; ++k) {
            for (std::int64_t j = 0; j < std::min(count, attention_block); ++j) {
                panel[k * attention_block + j] = to_float(matrix[k * stride + j]);
            }
        }
    }
    static void multiply(float* result, std::int64_t result_stride, const Element* left, std::int64_t left_stride,
                         const Element* panel, std::int64_t steps) {
        block(result, result_stride, left, left_stride, 1, panel, steps);
    }
    static void pack_transposed(Element* packed, const Element* left, std::int64_t left_stride, std::int64_t steps) {
        for (std::int64_t k = 0; k < steps * attention_block; ++k) {
            std::copy_n(left + k * left_stride, attention_block, packed + k * attention_block);
        }
    }
    static void multiply_packed(float* result, std::int64_t result_stride, const Element* packed, const Element* panel,
                                std::int64_t steps) {
        block(result, result_stride, packed, 1, attention_block, panel, steps);
    }

    static RowStatistics softmax(Element* weights, const float* scores, std::int64_t padded_keys, std::int64_t from,
                                 std::int64_t to, float scale) {
        std::fill_n(weights, padded_keys, 0.0F);
        float largest = scores[from];
#pragma omp simd reduction(max : largest)
        for (std::int64_t j = from; j < to; ++j) largest = scores[j] > largest ? scores[j] : largest;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t j = from; j < to; ++j) {
            weights[j] = exponential((scores[j] - largest) * scale);
            sum += weights[j];
        }
        return {largest, sum};
    }

    template <bool capped>
    static void softmax_backward(Element* weights, Element* d_scores, const float* scores, const float* d_weights,
                                 std::int64_t padded_keys, std::int64_t from, std::int64_t to, float scale,
                                 [[maybe_unused]] float cap, float log_sum, float shift) {
#pragma omp simd
        for (std::int64_t j = 0; j < padded_keys; ++j) {
            const bool seen = j >= from && j < to;
            const float p = seen ? exponential(scores[j] * scale - log_sum) : 0.0F;
            weights[j] = p;
            float d = p * (d_weights[j] - shift) * scale;
            if constexpr (capped) d *= soft_cap_slope(scores[j] * scale, cap);
            d_scores[j] = d;
        }
    }

private:
    /// Eight rows at a time: 8 x 32 sums stay in registers where there are 32 wide ones.
    static void block(float* result, std::int64_t result_stride, const float* left, std::int64_t row_stride,
                      std::int64_t depth_stride, const float* panel, std::int64_t steps) {
        using Vector [[gnu::vector_size(64), gnu::aligned(4)]] = float;
        constexpr int rows = 8;
        for (std::int64_t first = 0; first < attention_block; first += rows) {
            Vector sums[rows][2] = {};
            const float* a = left + first * row_stride;
            for (std::int64_t k = 0; k < steps * attention_block; ++k) {
                const Vector low = *reinterpret_cast<const Vector*>(panel + k * attention_block);
                const Vector high = *reinterpret_cast<const Vector*>(panel + k * attention_block + 16);
#pragma GCC unroll 8
                for (int i = 0; i < rows; ++i) {
                    const float factor = a[i * row_stride + k * depth_stride];
                    sums[i][0] += factor * low;
                    sums[i][1] += factor * high;
                }
            }
            for (int i = 0; i < rows; ++i) {
                float* to = result + (first + i) * result_stride;
                *reinterpret_cast<Vector*>(to) = sums[i][0];
                *reinterpret_cast<Vector*>(to + 16) = sums[i][1];
            }
        }
    }
};

}  // namespace pvtune::cpu
