#pragma once

// The nearest of many codewords for the points of a block: |c|^2 - 2 <p, c> in f32 with a running arg-min in registers.
// Codewords go through shared memory a tile at a time, every thread reads the same one at once, and each is used for
// all points of a thread. The sums run in the order of host/backend/cpu/beam_search.cpp: the same bits.

#include "cuda/device.cuh"

namespace pvtune::cuda {

inline constexpr int nearest_threads = 128;

template <int dim>
struct CodewordTile {
    static constexpr int size = 256;
    float4 codewords[size][dim / 4];
    float norms[size];
};

/// What a thread has found for its points. at: no_codeword when no score was a finite number.
template <int points>
struct Nearest {
    static constexpr std::uint32_t no_codeword = 0xffffffffU;
    float score[points];
    std::uint32_t at[points];
};

template <int dim>
__device__ inline void load_point(float (&point)[dim], const float* from) {
#pragma unroll
    for (int i = 0; i < dim; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(from + i);
        point[i] = four.x;
        point[i + 1] = four.y;
        point[i + 2] = four.z;
        point[i + 3] = four.w;
    }
}

template <int dim>
__device__ inline float squared_norm(const float (&codeword)[dim]) {
    float norm = 0;
#pragma unroll
    for (int i = 0; i < dim; ++i) norm = fmaf(codeword[i], codeword[i], norm);
    return norm;
}

/// Searches codewords [first, last) for the points whose -2 multiples are `doubled`. All threads of the block call it.
template <int dim, int points>
__device__ inline Nearest<points> nearest_codewords(const float (&doubled)[points][dim], const float* codewords,
                                                    int first, int last, CodewordTile<dim>& tile) {
    Nearest<points> nearest;
#pragma unroll
    for (int p = 0; p < points; ++p) {
        nearest.score[p] = __uint_as_float(0x7f800000U);
        nearest.at[p] = nearest.no_codeword;
    }
    for (int begin = first; begin < last; begin += tile.size) {
        const int size = min(tile.size, last - begin);
        __syncthreads();
        for (int k = static_cast<int>(threadIdx.x); k < size; k += nearest_threads) {
            float codeword[dim];
            load_point<dim>(codeword, codewords + static_cast<std::int64_t>(begin + k) * dim);
#pragma unroll
            for (int i = 0; i < dim; i += 4) {
                tile.codewords[k][i / 4] = make_float4(codeword[i], codeword[i + 1], codeword[i + 2], codeword[i + 3]);
            }
            tile.norms[k] = squared_norm<dim>(codeword);
        }
        __syncthreads();
#pragma unroll 2
        for (int k = 0; k < size; ++k) {
            float score[points];
#pragma unroll
            for (int p = 0; p < points; ++p) score[p] = tile.norms[k];
#pragma unroll
            for (int i = 0; i < dim; i += 4) {
                const float4 four = tile.codewords[k][i / 4];
#pragma unroll
                for (int p = 0; p < points; ++p) {
                    score[p] = fmaf(doubled[p][i], four.x, score[p]);
                    score[p] = fmaf(doubled[p][i + 1], four.y, score[p]);
                    score[p] = fmaf(doubled[p][i + 2], four.z, score[p]);
                    score[p] = fmaf(doubled[p][i + 3], four.w, score[p]);
                }
            }
#pragma unroll
            for (int p = 0; p < points; ++p) {
                const bool nearer = score[p] < nearest.score[p];
                nearest.score[p] = nearer ? score[p] : nearest.score[p];
                nearest.at[p] = nearer ? static_cast<std::uint32_t>(begin + k) : nearest.at[p];
            }
        }
    }
    return nearest;
}

}  // namespace pvtune::cuda
