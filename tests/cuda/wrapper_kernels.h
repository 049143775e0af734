#pragma once

#include "cuda/kernels.h"

#include <cstddef>

/// One warp each, for the conformance test of the wrappers in cuda/ and of the emulated device.
namespace pvtune::cuda::wrappers {

/// d += a b by fragments: d [32 lanes, 4] f32; a [32, 4], b [32, 2] pairs of bf16.
void multiply_fragments(float* d, const std::uint32_t* a, const std::uint32_t* b, Stream stream);
/// fragments [32, 4] from four matrices [4, 8, 8] of 16 bits.
void load_fragments(std::uint32_t* fragments, const std::uint16_t* matrices, bool transposed, Stream stream);
/// packed[lane] = pack_bf16(low[lane], high[lane]).
void pack(std::uint32_t* packed, const float* low, const float* high, Stream stream);
/// out [32, 4] = the first valid[lane] bytes of in [32, 4], then zeros; through three groups of copies.
void copy_asynchronously(std::uint32_t* out, const std::uint32_t* in, const std::int32_t* valid, Stream stream);
/// last[0] = index of the last element of `bytes` of dynamic shared memory, read back from there.
void use_dynamic_shared(std::uint32_t* last, std::size_t bytes, Stream stream);

/// What every lane gets: out [operations, 32].
enum ShuffleCase { by_index, up, down, exclusive_or, shuffle_cases };
void shuffle(std::uint32_t* out, const std::uint32_t* in, int offset, int width, Stream stream);
enum VoteCase {
    ballot,
    any,
    all,
    match,
    sum,
    smallest,
    largest,
    bits_and,
    bits_or,
    bits_xor,
    signed_smallest,
    vote_cases
};
void vote(std::uint32_t* out, const std::uint32_t* in, Stream stream);

/// Conversions that saturate and round: out [conversions, count].
enum ConversionCase { to_int_nearest, to_int_down, to_int_up, to_int_zero, to_unsigned_nearest, conversions };
void convert_to_integers(std::int32_t* out, std::int64_t* wide, const float* in, std::int64_t count, Stream stream);
/// Bit counts: out [bit_cases, count].
enum BitCase { ones, leading_zeros, first_set, reversed, permuted, shifted_left, shifted_right, bit_cases };
void count_bits(std::uint32_t* out, const std::uint32_t* in, std::int64_t count, Stream stream);

}  // namespace pvtune::cuda::wrappers
