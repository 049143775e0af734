#pragma once

// Nearest points of E8P and of the residual's codebook: the search of host/backend/cpu/e8p_search.cpp, candidate by
// candidate with its sums in their order, the table of absolute values in shared memory.

#include "cuda/lattice.cuh"

namespace pvtune::cuda {

inline constexpr int dim = lattice_group;

struct SearchTables {
    e8p::Tables tables;
    float4 magnitudes[2][256];  ///< of coordinates 0 to 3 and 4 to 7: lanes that read neighbours are in all banks
    float minus_half_norm[256];
    std::uint8_t odd[256];
};

__device__ inline void load_search_tables(SearchTables& to, const e8p::Tables& from) {
    load_tables(to.tables, from);
    for (unsigned e = threadIdx.x; e < 256; e += blockDim.x) {
        const std::uint32_t packed = from.magnitudes[e];
        float magnitude[dim];
        float norm = 0;
#pragma unroll
        for (int i = 0; i < dim; ++i) {
            magnitude[i] = static_cast<float>(packed >> (2 * i) & 3U) + 0.5F;
            norm = fmaf(magnitude[i], magnitude[i], norm);
        }
        to.magnitudes[0][e] = make_float4(magnitude[0], magnitude[1], magnitude[2], magnitude[3]);
        to.magnitudes[1][e] = make_float4(magnitude[4], magnitude[5], magnitude[6], magnitude[7]);
        to.minus_half_norm[e] = -0.5F * norm;
        to.odd[e] = static_cast<std::uint8_t>(e8p::odd_sum(packed));
    }
    __syncthreads();
}

/// <size, magnitudes of the entry> + sum, and the least product.
__device__ inline float score_of(const SearchTables& tables, int e, const float (&size)[dim], float& least) {
    const float4 low = tables.magnitudes[0][e];
    const float4 high = tables.magnitudes[1][e];
    const float magnitude[dim] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    float sum = tables.minus_half_norm[e];
    least = INFINITY;
#pragma unroll
    for (int i = 0; i < dim; ++i) {
        sum = fmaf(size[i], magnitude[i], sum);
        least = fminf(least, size[i] * magnitude[i]);
    }
    return sum;
}

/// The coordinate whose sign costs least to change, the lower of equal ones, but for `taken`.
__device__ inline int cheapest_sign(std::uint32_t packed, const float (&size)[dim], int taken) {
    int cheapest = 0;
    float least = INFINITY;
#pragma unroll
    for (int i = 0; i < dim; ++i) {
        const float product = size[i] * (static_cast<float>(packed >> (2 * i) & 3U) + 0.5F);
        if (i != taken && product < least) {
            least = product;
            cheapest = i;
        }
    }
    return cheapest;
}

__device__ inline float minus_twice(std::uint32_t packed, const float (&size)[dim], int coordinate, float sum) {
    float chosen = 0;
#pragma unroll
    for (int i = 0; i < dim; ++i) chosen = i == coordinate ? size[i] : chosen;  // no indexed registers
    return fmaf(-2 * chosen, static_cast<float>(packed >> (2 * coordinate) & 3U) + 0.5F, sum);
}

__device__ inline std::uint32_t code_of(int e, std::uint32_t negative, std::uint32_t shift) {
    return static_cast<std::uint32_t>(e) << 8 | (negative & 0x7fU) << 1 | shift;
}

/// The best of what `lanes` neighbours of a warp have found, in all of them; ties: the lower entry. All 32 lanes call
/// it.
template <int lanes>
__device__ inline void share_best(float& score, int& entry) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
        const float other_score = __shfl_xor_sync(whole_warp, score, offset);
        const int other_entry = __shfl_xor_sync(whole_warp, entry, offset);
        if (other_score > score || (other_score == score && other_entry < entry)) {
            score = other_score;
            entry = other_entry;
        }
    }
}

/// excluding: of all codes but `excluded`. lanes: so many neighbours, a power of two, have the same x and share the
/// entries; `lane` says which of them this is.
template <bool excluding, int lanes = 1>
__device__ inline std::uint32_t nearest_e8p(const SearchTables& tables, const float (&x)[dim], std::uint32_t excluded,
                                            int lane = 0) {
    float best = -INFINITY;
    std::uint32_t code = 0;
    for (std::uint32_t shift = 0; shift < 2; ++shift) {
        float size[dim];
        float energy = 0;
        std::uint32_t negative = 0;
#pragma unroll
        for (int i = 0; i < dim; ++i) {
            const float y = x[i] - (shift != 0 ? 0.25F : -0.25F);
            size[i] = fabsf(y);
            energy = fmaf(y, y, energy);
            negative |= (y < 0 ? 1U : 0U) << i;
        }
        const std::uint32_t count = e8p::parity(negative);
        const auto best_signs = [&](int e) {
            if (tables.odd[e] == count) return negative;
            return negative ^ 1U << cheapest_sign(tables.tables.magnitudes[e], size, -1);
        };
        int second = -1;  // the entry that has to take its second-best signs
        if (excluding && (excluded & 1U) == shift) {
            const auto e = static_cast<int>(excluded >> 8);
            if (code_of(e, best_signs(e), shift) == excluded) second = e;
        }
        std::uint32_t others = negative;
        float here = -INFINITY;
        int found = 0;
        for (int e = lane; e < 256; e += lanes) {
            float least = 0;
            float score = score_of(tables, e, size, least);
            if (excluding && e == second) {
                const std::uint32_t packed = tables.tables.magnitudes[e];
                const int one = cheapest_sign(packed, size, -1);
                const int other = cheapest_sign(packed, size, one);
                others ^= 1U << other;
                score = minus_twice(packed, size, other, score);
                if (tables.odd[e] == count) {
                    others ^= 1U << one;
                    score = minus_twice(packed, size, one, score);
                }
            } else if (tables.odd[e] != count) {
                score = fmaf(-2.0F, least, score);
            }
            if (!(score > here)) continue;
            here = score;
            found = e;
        }
        share_best<lanes>(here, found);
        here = fmaf(-0.5F, energy, here);
        if (!(here > best)) continue;
        best = here;
        code = code_of(found, excluding && found == second ? others : best_signs(found), shift);
    }
    return code;
}

template <bool excluding, int lanes = 1>
__device__ inline std::uint32_t nearest_residual(const SearchTables& tables, const float (&x)[dim],
                                                 std::uint32_t excluded, int lane = 0) {
    float best = -INFINITY;
    int code = 0;
    for (int e = lane; e < 256; e += lanes) {
        const std::uint32_t packed = tables.tables.residuals[e];
        float norm = 0;
        float value[dim];
#pragma unroll
        for (int i = 0; i < dim; ++i) {
            value[i] = 0.5F * static_cast<float>(e8p::halves(packed, i));
            norm = fmaf(value[i], value[i], norm);
        }
        float score = -0.5F * norm;
#pragma unroll
        for (int i = 0; i < dim; ++i) score = fmaf(x[i], value[i], score);
        if (!(score > best) || (excluding && static_cast<std::uint32_t>(e) == excluded)) continue;
        best = score;
        code = e;
    }
    share_best<lanes>(best, code);
    return static_cast<std::uint32_t>(code);
}

template <int bytes>
__device__ inline float distance(const SearchTables& tables, const float (&x)[dim], const std::uint8_t* codes) {
    float values[dim];
    decode_group<bytes>(values, tables.tables.magnitudes, tables.tables.residuals, codes);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < dim; ++i) {
        const float difference = x[i] - values[i];
        sum = fmaf(difference, difference, sum);
    }
    return sum;
}

/// What the second code stands for.
template <int bytes>
__device__ inline void residual_of(float (&rest)[dim], const SearchTables& tables, const float (&x)[dim],
                                   std::uint32_t code) {
    constexpr float scale = bytes == 3 ? e8p::residual_scale_3_bits : e8p::residual_scale_4_bits;
    decode_e8p(rest, tables.tables.magnitudes, code);
#pragma unroll
    for (int j = 0; j < dim; ++j) rest[j] = __fmul_rn(x[j] - rest[j] * 0.25F, scale);
}

/// target / scale of a group; whether it can be encoded.
__device__ inline bool load_scaled(float (&x)[dim], const float* target, const float* scale) {
    const float inverse = 1 / *scale;
    bool usable = true;
#pragma unroll
    for (int j = 0; j < dim; ++j) {
        x[j] = __fmul_rn(target[j], inverse);
        usable = usable && fabsf(x[j]) < INFINITY;
    }
    return usable;
}

}  // namespace pvtune::cuda
