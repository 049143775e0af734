#pragma once

// What the kernels of the backward pass on tensor cores share: the gradient of q in fixed point, its workspace.
//
// d_q of a query is a sum over the blocks of all its keys. For results that repeat, blocks add to it whole numbers,
// whose sums do not depend on the order. d_q[i] = scale sum_j ds_ij k_j with ds_ij = p_ij (d_out_i . v_j - delta_i), p
// a softmax, delta_i = d_out_i . out_i and out_i an average of the v_j (a cap of scores multiplies ds_ij by its slope,
// at most 1). So no element of sum_j ds_ij k_j exceeds
//
//   bound_i = 2 |d_out_i| max_j |v_j| max_j,e |k_je|
//
// and in units of bound_i / 2^30 it fits 32 bits. What bf16 rounding of p and ds leaves of d_q is coarser by several
// binary digits even for sequences of 2^17 tokens, for which d_q is some 2^15 times smaller than its bound.

#include "cuda/attention_sizes.h"
#include "cuda/device.cuh"

namespace pvtune::cuda {

/// Rows of the statistics of a sequence are padded to a multiple of the longest tile of queries.
inline constexpr int statistics_rows = 64;

/// What the backward pass needs to know of a query: -log_sum_exp in bits (-inf beyond the sequence, so that weights are
/// 0), -delta, and 1 / unit of its d_q, a power of 2 (0: all of its d_q is 0; NaN: not finite).
enum : int { shift_statistic, delta_statistic, unit_statistic, statistics_a_row };

struct BackwardWorkspace {
    int* bounds;               ///< [sequences * kv_heads, 2]: max |v_j| and max |k_je|, the bits of f32
    int* d_q;                  ///< [sequences * heads, tiles of queries, as fragments]
    float* statistics;         ///< [statistics_a_row, sequences * heads, padded length]
    std::size_t zeroed_bytes;  ///< of bounds and d_q together, from bounds on
    std::size_t bytes;

    BackwardWorkspace(const AttentionSizes& sizes, void* memory) {
        const auto aligned = [](std::int64_t size) { return static_cast<std::size_t>(ceil_divide(size, 256) * 256); };
        const std::int64_t rows = sizes.sequences * sizes.heads * padded_length(sizes);
        const std::size_t bounds_bytes = aligned(sizes.sequences * sizes.kv_heads * 2 * 4);
        zeroed_bytes = bounds_bytes + aligned(rows * tile_width(sizes) * 4);
        bytes = zeroed_bytes + aligned(rows * statistics_a_row * 4);
        auto* const first = static_cast<std::byte*>(memory);
        bounds = reinterpret_cast<int*>(first);
        d_q = reinterpret_cast<int*>(first + bounds_bytes);
        statistics = reinterpret_cast<float*>(first + zeroed_bytes);
    }
    static std::int64_t padded_length(const AttentionSizes& sizes) {
        return ceil_divide(sizes.length, statistics_rows) * statistics_rows;
    }
};

/// Fills the bounds and statistics of a workspace and zeroes its d_q.
void prepare_attention_backward(const BackwardWorkspace& workspace, const bf16* d_out, const bf16* out,
                                const float* log_sum_exp, const bf16* k, const bf16* v, const AttentionSizes& sizes,
                                Stream stream);

}  // namespace pvtune::cuda
