#pragma once

// Steps that the two searches of assign_additive share: the target of a group and the choice between its old codes and
// those that were found.

#include "cuda/additive.cuh"
#include "cuda/nearest_codeword.cuh"

namespace pvtune::cuda {

/// target / scale of the group at flat index `at`. NaN for a row without a usable scale: its codes stay.
template <int group, class Code>
__device__ inline void load_target(float (&values)[group], const float* target, std::int64_t at,
                                   const AdditiveView<Code>& additive, const Divisor& row_groups) {
    const float inverse = 1.0F / additive.scales[row_groups.quotient(static_cast<std::uint32_t>(at))];
    const bool usable = fabsf(inverse) < __uint_as_float(0x7f800000U);
    load_point<group>(values, target + at * group);
#pragma unroll
    for (int i = 0; i < group; ++i) values[i] = usable ? values[i] * inverse : __uint_as_float(0x7fc00000U);
}

/// values -= codeword `code` of codebook m.
template <int group, class Code>
__device__ inline void subtract_codeword(float (&values)[group], const AdditiveView<Code>& additive, int m, int code) {
    float codeword[group];
    load_point<group>(codeword, additive.codebooks + (m * additive.codebook_size + code) * group);
#pragma unroll
    for (int i = 0; i < group; ++i) values[i] -= codeword[i];
}

/// |values - sum of the codewords|^2.
template <int group, class Code, class Some>
__device__ inline float code_distance(const float (&values)[group], const AdditiveView<Code>& additive,
                                      const Some* codes) {
    float rest[group];
#pragma unroll
    for (int i = 0; i < group; ++i) rest[i] = values[i];
    for (int m = 0; m < static_cast<int>(additive.books); ++m) {
        subtract_codeword<group>(rest, additive, m, static_cast<int>(codes[m]));
    }
    return squared_norm<group>(rest);
}

/// Gives the group the codes found if they are nearer, or as near and lower; the searches round differently from the
/// distance itself, and what counts is the distance. Returns whether a code changed.
template <int group, class Code, class Some>
__device__ inline bool adopt_codes(const float (&values)[group], std::int64_t at, const AdditiveView<Code>& additive,
                                   const Some* found) {
    const auto books = static_cast<int>(additive.books);
    Code* const own = additive.codes + at * books;
    int first_change = 0;
    while (first_change < books && own[first_change] == found[first_change]) ++first_change;
    if (first_change == books) return false;
    const float before = code_distance<group>(values, additive, own);
    const float after = code_distance<group>(values, additive, found);
    if (!(after < before || (after == before && found[first_change] < own[first_change]))) return false;
    for (int m = first_change; m < books; ++m) own[m] = static_cast<Code>(found[m]);
    return true;
}

/// Grows with the number, which is not a NaN; -0 equals 0.
__device__ inline std::uint32_t ordered_bits(float number) {
    const std::uint32_t bits = __float_as_uint(number + 0.0F);
    return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

/// What beam_assign, the search over several codebooks, needs beside the view. assign_additive_beam.cu
struct BeamSearch {
    int beam = 1;
    int sweeps = 1;
    bool use_cross = false;  ///< products between the codewords of all codebooks were made
};
template <class Code>
BeamSearch beam_search_for(const AdditiveView<Code>& additive, std::int64_t count, int beam);
template <class Code>
std::size_t beam_assign_workspace(const AdditiveView<Code>& additive, const BeamSearch& search);
template <class Code>
void beam_assign(const AdditiveView<Code>& additive, std::uint8_t* changed, const float* target,
                 const std::uint32_t* chosen, std::int64_t count, const BeamSearch& search, void* workspace,
                 Stream stream);

}  // namespace pvtune::cuda
