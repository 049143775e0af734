#pragma once

// What the attention kernels without tensor cores share. A warp works for one row (of queries, or of keys) and meets
// the rows of the other side 32 at a time, one a lane, from shared memory as f32.

#include "cuda/attention_plain.h"
#include "cuda/attention_sizes.h"
#include "cuda/device.cuh"
#include "cuda/reduce.cuh"

namespace pvtune::cuda {

inline constexpr int plain_warps = 8;
inline constexpr int plain_threads = plain_warps * warp_size;
/// Elements of a row that one lane keeps: lane, lane + 32, ...
inline constexpr int plain_elements = 256 / warp_size;

struct PlainShape {
    int sequences, length, heads, kv_heads, head_dim, window;
    float scale, cap;
    int blocks;  ///< of plain_warps rows in a sequence
};

inline PlainShape plain_shape(const AttentionSizes& sizes) {
    return {static_cast<int>(sizes.sequences),
            static_cast<int>(sizes.length),
            static_cast<int>(sizes.heads),
            static_cast<int>(sizes.kv_heads),
            static_cast<int>(sizes.head_dim),
            visible_tokens(sizes),
            attention_scale(sizes),
            sizes.cap,
            static_cast<int>(ceil_divide(sizes.length, plain_warps))};
}

/// One head of one sequence in a tensor [tokens, heads, head_dim].
template <class T>
struct HeadRows {
    T* data;
    int stride;
    __device__ HeadRows(T* tensor, int sequence, int head, int heads, const PlainShape& shape)
        : data(tensor + static_cast<std::int64_t>(sequence) * shape.length * heads * shape.head_dim +
               head * shape.head_dim),
          stride(heads * shape.head_dim) {}
    __device__ T* row(int i) const { return data + static_cast<std::int64_t>(i) * stride; }
};

/// The distance of rows in shared memory: odd, so that lanes at the same column of different rows meet different banks.
__host__ __device__ constexpr int plain_stride(int head_dim) { return head_dim + 1; }

/// Rows [first, first + count) of a head to shared memory; those from `length` on become zero. By the whole block.
template <class T>
__device__ inline void load_plain(float* shared, const HeadRows<T>& rows, int first, int count,
                                  const PlainShape& shape) {
    for (int i = static_cast<int>(threadIdx.x); i < count * shape.head_dim; i += plain_threads) {
        const int row = i / shape.head_dim;
        const int column = i % shape.head_dim;
        shared[row * plain_stride(shape.head_dim) + column] =
            first + row < shape.length ? to_float(rows.row(first + row)[column]) : 0.0F;
    }
}

__device__ inline float plain_dot(const float* a, const float* b, int head_dim) {
    float sum = 0;
    for (int e = 0; e < head_dim; ++e) sum = fmaf(a[e], b[e], sum);
    return sum;
}

/// A score from the product of a query and a key.
__device__ inline float plain_score(float product, const PlainShape& shape) {
    const float score = product * shape.scale;
    return shape.cap > 0 ? shape.cap * tanhf(score / shape.cap) : score;
}

/// d score / d (product * scale).
__device__ inline float plain_slope(float score, const PlainShape& shape) {
    return shape.cap > 0 ? 1.0F - score / shape.cap * (score / shape.cap) : 1.0F;
}

/// sums[i] += sum over the 32 rows of the tile of weights[row] * tile[row, lane + 32 i].
__device__ inline void add_weighted(float (&sums)[plain_elements], const float* weights, const float* tile,
                                    int head_dim) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    for (int i = 0; i < plain_elements; ++i) {
        const int e = lane + i * warp_size;
        if (e >= head_dim) continue;
        for (int row = 0; row < warp_size; ++row) {
            sums[i] = fmaf(weights[row], tile[row * plain_stride(head_dim) + e], sums[i]);
        }
    }
}

template <class T>
__device__ inline void store_plain(T* row, const float (&values)[plain_elements], float factor, int head_dim) {
    for (int i = 0; i < plain_elements; ++i) {
        const int e = static_cast<int>(threadIdx.x) % warp_size + i * warp_size;
        if (e < head_dim) row[e] = from_float<T>(values[i] * factor);
    }
}

}  // namespace pvtune::cuda
