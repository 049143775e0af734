#pragma once

// The small matrix products inside attention, in two builds with one interface: on AMX tiles for bf16, and as plain f32
// loops for everything else. A right operand is packed into panels of 32 columns, [step of 32 deep][1024 elements], so
// that a range of steps is a range of memory in both. All extents are multiples of 32; padding is zero.

#include "host/backend/cpu/amx.h"
#include "io/dtype.h"

#include <algorithm>
#include <cstdint>

namespace pvtune::cpu {

inline constexpr std::int64_t attention_block = 32;
inline constexpr std::int64_t step_elements = attention_block * attention_block;

constexpr std::int64_t padded(std::int64_t extent) {
    return (extent + attention_block - 1) / attention_block * attention_block;
}

#ifdef __AMX_BF16__

struct AmxProducts {
    using Source = bf16;   ///< what attention is given
    using Element = bf16;  ///< what operands are stored in

    static void enter() { amx_configure(); }

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
