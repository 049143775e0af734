// bf16 matrix products by blocks of 32 x 32. Two schedules, by which operand stays in a core's L2 cache:
//  - a slab of packed right panels stays and rows of the left operand stream past (activations times weights);
//  - a transposed left operand is packed a few panels at a time and stays, the right panels, packed once for all
//    threads, stream past (weight gradients).
// Every element of the result is summed by one thread over the whole inner dimension in a fixed order.

#include "host/backend/cpu/bf16_blocks.h"
#include "host/backend/cpu/gemm.h"
#include "host/backend/cpu/scratch.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#ifdef __AVX512BF16__
#include <immintrin.h>
#include <omp.h>
#include <unistd.h>
#endif

namespace pvtune::cpu {

#ifndef __AVX512BF16__

void gemm_blocks(const Gemm&) { throw std::logic_error("built for a CPU without a unit for bf16 blocks"); }

#else

namespace {

/// What one core keeps in its L2 cache beside the operand that streams: half of it.
std::int64_t resident_bytes() {
    static const std::int64_t bytes = [] {
        const long level_2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
        return level_2 > 0 ? std::int64_t{level_2} / 2 : std::int64_t{1} << 19;
    }();
    return bytes;
}
/// Longer sums are cut, so that a resident panel stays small.
constexpr std::int64_t longest_depth = 8192;

template <class T>
void store_block(const Gemm& problem, std::int64_t row, std::int64_t column, const float* block) {
    const std::int64_t rows = std::min(block_extent, problem.m - row);
    const std::int64_t columns = std::min(block_extent, problem.n - column);
    T* result = static_cast<T*>(problem.result) + row * problem.result_stride + column;
    const auto low = static_cast<__mmask16>((1U << std::min<std::int64_t>(columns, 16)) - 1);
    const auto high = static_cast<__mmask16>(columns > 16 ? (1U << (columns - 16)) - 1 : 0);
    __m512 bias_low = _mm512_setzero_ps();
    __m512 bias_high = _mm512_setzero_ps();
    if (problem.bias != nullptr) {
        bias_low = _mm512_maskz_loadu_ps(low, problem.bias + column);
        bias_high = _mm512_maskz_loadu_ps(high, problem.bias + column + 16);
    }
    for (std::int64_t i = 0; i < rows; ++i, result += problem.result_stride, block += block_extent) {
        __m512 first = _mm512_add_ps(_mm512_load_ps(block), bias_low);
        __m512 second = _mm512_add_ps(_mm512_load_ps(block + 16), bias_high);
        if constexpr (sizeof(T) == 4) {
            if (problem.accumulate) {
                first = _mm512_add_ps(first, _mm512_maskz_loadu_ps(low, result));
                second = _mm512_add_ps(second, _mm512_maskz_loadu_ps(high, result + 16));
            }
            _mm512_mask_storeu_ps(result, low, first);
            _mm512_mask_storeu_ps(result + 16, high, second);
        } else {
            const auto mask = static_cast<__mmask32>(low | (static_cast<std::uint32_t>(high) << 16));
            if (problem.accumulate) {
                const __m512i old = _mm512_maskz_loadu_epi16(mask, result);
                const auto widen = [](__m256i half) {
                    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
                };
                first = _mm512_add_ps(first, widen(_mm512_castsi512_si256(old)));
                second = _mm512_add_ps(second, widen(_mm512_extracti64x4_epi64(old, 1)));
            }
            _mm512_mask_storeu_epi16(result, mask, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
        }
    }
}

void product_and_store(const Gemm& problem, std::int64_t row, std::int64_t column, const LeftBlock& left,
                       const bf16* right_panel) {
    // The block's rows of the result are far apart: asked for now, they are there when the product is.
    const std::int64_t size = size_of(problem.result_dtype);
    char* result = static_cast<char*>(problem.result) + (row * problem.result_stride + column) * size;
    const std::int64_t rows = std::min(block_extent, problem.m - row);
    for (std::int64_t i = 0; i < rows; ++i) __builtin_prefetch(result + i * problem.result_stride * size, 1);
    alignas(64) float block[block_extent * block_extent];
    block_product(block, block_extent, left, right_panel, depth_steps(problem.k));
    if (problem.result_dtype == DType::f32) {
        store_block<float>(problem, row, column, block);
    } else {
        store_block<bf16>(problem, row, column, block);
    }
}

struct Range {
    std::int64_t first;
    std::int64_t last;
};

Range share(std::int64_t count, std::int64_t part, std::int64_t parts) {
    return {count * part / parts, count * (part + 1) / parts};
}

std::int64_t blocks_of(std::int64_t extent) { return (extent + block_extent - 1) / block_extent; }

void pack_right(bf16* panel, const Gemm& problem, std::int64_t column) {
    const auto* right = static_cast<const bf16*>(problem.right);
    const std::int64_t count = std::min(block_extent, problem.n - column);
    if (problem.right_transposed) {
        pack_right_from_rows(panel, right + column * problem.right_stride, problem.right_stride, count, problem.k);
    } else {
        pack_right_from_columns(panel, right + column, problem.right_stride, count, problem.k);
    }
}

void resident_right_part(const Gemm& problem, Range rows, Range columns) {
    thread_local Scratch panels_memory;
    thread_local Scratch left_memory;
    const std::int64_t panel = panel_elements(problem.k);
    const std::int64_t slab = std::max<std::int64_t>(1, resident_bytes() / (panel * 2));
    bf16* panels = panels_memory.get<bf16>(panel * std::min(slab, columns.last - columns.first));
    bf16* packed_left = left_memory.get<bf16>(panel);
    const auto* left = static_cast<const bf16*>(problem.left);
    for (std::int64_t first = columns.first; first < columns.last; first += slab) {
        const std::int64_t last = std::min(first + slab, columns.last);
        for (std::int64_t j = first; j < last; ++j) pack_right(panels + (j - first) * panel, problem, j * block_extent);
        for (std::int64_t i = rows.first; i < rows.last; ++i) {
            const std::int64_t row = i * block_extent;
            const bf16* source = left + row * problem.left_stride;
            LeftBlock operand = left_rows(source, problem.left_stride);
            if (problem.m - row < block_extent || problem.k % tile_depth != 0) {
                pack_left_from_rows(packed_left, source, problem.left_stride, std::min(block_extent, problem.m - row),
                                    problem.k);
                operand = left_panel(packed_left);
            }
            for (std::int64_t j = first; j < last; ++j) {
                product_and_store(problem, row, j * block_extent, operand, panels + (j - first) * panel);
            }
        }
    }
}

void resident_right(const Gemm& problem) {
    const std::int64_t row_blocks = blocks_of(problem.m);
    const std::int64_t column_blocks = blocks_of(problem.n);
#pragma omp parallel
    {
        enter_block_products();
        const std::int64_t threads = omp_get_num_threads();
        const std::int64_t column_parts = std::min(threads, column_blocks);
        const std::int64_t row_parts = std::max<std::int64_t>(1, threads / column_parts);
        const std::int64_t part = omp_get_thread_num();
        if (part < column_parts * row_parts) {
            resident_right_part(problem, share(row_blocks, part / column_parts, row_parts),
                                share(column_blocks, part % column_parts, column_parts));
        }
    }
}

/// Of the rows of a lower triangle: shares of equal area.
Range triangle_share(std::int64_t count, std::int64_t part, std::int64_t parts) {
    const auto end = [&](std::int64_t of) {
        return std::llround(static_cast<double>(count) *
                            std::sqrt(static_cast<double>(of) / static_cast<double>(parts)));
    };
    return {end(part), end(part + 1)};
}

/// The block above the diagonal from the one below, 32 x 32 at most.
void mirror_block(const Gemm& problem, std::int64_t row, std::int64_t column) {
    auto* result = static_cast<float*>(problem.result);
    for (std::int64_t i = row; i < std::min(row + block_extent, problem.m); ++i) {
        for (std::int64_t j = column; j < std::min(column + block_extent, problem.n); ++j) {
            result[j * problem.result_stride + i] = result[i * problem.result_stride + j];
        }
    }
}

void resident_left(const Gemm& problem) {
    static thread_local Scratch right_memory;
    const std::int64_t panel = panel_elements(problem.k);
    const std::int64_t row_blocks = blocks_of(problem.m);
    const std::int64_t column_blocks = blocks_of(problem.n);
    const std::int64_t chunk_limit = std::max<std::int64_t>(1, resident_bytes() / (panel * 2));
    const bool half = problem.symmetric && problem.result_dtype == DType::f32;
    bf16* right_panels = right_memory.get<bf16>(panel * column_blocks);
#pragma omp parallel
    {
        thread_local Scratch left_memory;
        enter_block_products();
#pragma omp for schedule(static)
        for (std::int64_t j = 0; j < column_blocks; ++j)
            pack_right(right_panels + j * panel, problem, j * block_extent);
        const Range rows = (half ? triangle_share : share)(row_blocks, omp_get_thread_num(), omp_get_num_threads());
        bf16* left_panels = left_memory.get<bf16>(panel * std::min(chunk_limit, rows.last - rows.first + 1));
        for (std::int64_t first = rows.first; first < rows.last; first += chunk_limit) {
            const std::int64_t last = std::min(first + chunk_limit, rows.last);
            for (std::int64_t i = first; i < last; ++i) {
                const std::int64_t row = i * block_extent;
                pack_left_from_columns(left_panels + (i - first) * panel, static_cast<const bf16*>(problem.left) + row,
                                       problem.left_stride, std::min(block_extent, problem.m - row), problem.k);
            }
            for (std::int64_t j = 0; j < (half ? last : column_blocks); ++j) {
                for (std::int64_t i = half ? std::max(first, j) : first; i < last; ++i) {
                    product_and_store(problem, i * block_extent, j * block_extent,
                                      left_panel(left_panels + (i - first) * panel), right_panels + j * panel);
                    if (half && i > j) mirror_block(problem, i * block_extent, j * block_extent);
                }
            }
        }
    }
}

/// Sums of more than longest_depth terms in pieces, added up in f32.
void cut_depth(const Gemm& problem) {
    static thread_local Scratch sum_memory;
    Gemm piece = problem;
    const bool direct = problem.result_dtype == DType::f32;
    if (!direct) {
        piece.result_dtype = DType::f32;
        piece.result = sum_memory.get<float>(problem.m * problem.n);
        piece.result_stride = problem.n;
        piece.accumulate = false;
    }
    for (std::int64_t first = 0; first < problem.k; first += longest_depth) {
        piece.k = std::min(longest_depth, problem.k - first);
        piece.left =
            static_cast<const bf16*>(problem.left) + first * (problem.left_transposed ? problem.left_stride : 1);
        piece.right =
            static_cast<const bf16*>(problem.right) + first * (problem.right_transposed ? 1 : problem.right_stride);
        gemm_blocks(piece);
        piece.accumulate = true;
        piece.bias = nullptr;
    }
    if (direct) return;
    const auto* sums = static_cast<const float*>(piece.result);
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < problem.m; ++i) {
        bf16* result = static_cast<bf16*>(problem.result) + i * problem.result_stride;
        for (std::int64_t j = 0; j < problem.n; ++j) {
            result[j] = to_bf16(sums[i * problem.n + j] + (problem.accumulate ? to_float(result[j]) : 0.0F));
        }
    }
}

}  // namespace

void gemm_blocks(const Gemm& problem) {
    if (problem.k > longest_depth) {
        cut_depth(problem);
    } else if (problem.left_transposed) {
        resident_left(problem);
    } else {
        resident_right(problem);
    }
}

#endif

}  // namespace pvtune::cpu
