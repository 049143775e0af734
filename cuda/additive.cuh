#pragma once

// What the kernels on additive codebooks share: the check of a geometry, constants for it, codes in registers.

#include "cuda/device.cuh"
#include "cuda/kernels.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace pvtune::cuda {

inline constexpr int most_books = 8;

template <class Code>
void check_additive(const AdditiveView<Code>& additive) {
    const auto refuse = [](const char* what, std::int64_t value) {
        throw std::invalid_argument(std::string("additive codebooks on the device: ") + what + " " +
                                    std::to_string(value));
    };
    if (additive.group != 4 && additive.group != 8 && additive.group != 16) {
        refuse("groups have 4, 8 or 16 weights, not", additive.group);
    }
    if (additive.books < 1 || additive.books > most_books) refuse("1 to 8 codebooks, not", additive.books);
    const std::int64_t most_codewords = std::int64_t{1} << (8 * sizeof(Code));
    if (additive.codebook_size < 1 || additive.codebook_size > most_codewords) {
        refuse("codes do not cover a codebook of", additive.codebook_size);
    }
    if (additive.rows * additive.groups > 0xffffffffLL) refuse("too many groups:", additive.rows * additive.groups);
}

/// Calls body.template operator()<group>() with the weights a group as a constant.
template <class Body>
void with_group(std::int64_t group, Body&& body) {
    if (group == 4) return std::forward<Body>(body).template operator()<4>();
    if (group == 8) return std::forward<Body>(body).template operator()<8>();
    std::forward<Body>(body).template operator()<16>();
}

/// Likewise with the number of codebooks up to 4, or 0 for more.
template <class Body>
void with_books(std::int64_t books, Body&& body) {
    if (books == 1) return std::forward<Body>(body).template operator()<1>();
    if (books == 2) return std::forward<Body>(body).template operator()<2>();
    if (books == 3) return std::forward<Body>(body).template operator()<3>();
    if (books == 4) return std::forward<Body>(body).template operator()<4>();
    std::forward<Body>(body).template operator()<0>();
}

/// Division of 32-bit numbers by one that is known before the launch, without dividing (Granlund & Montgomery 1994).
struct Divisor {
    std::uint32_t multiplier = 1;
    int first_shift = 0;
    int second_shift = 0;

    explicit Divisor(std::int64_t divisor) {
        int bits = 0;
        while ((std::int64_t{1} << bits) < divisor) ++bits;
        const auto excess = static_cast<std::uint64_t>((std::int64_t{1} << bits) - divisor);
        multiplier = static_cast<std::uint32_t>((excess << 32) / static_cast<std::uint64_t>(divisor) + 1);
        first_shift = bits > 0 ? 1 : 0;
        second_shift = bits > 0 ? bits - 1 : 0;
    }
    __device__ std::uint32_t quotient(std::uint32_t number) const {
        const std::uint32_t high = __umulhi(number, multiplier);
        return (high + ((number - high) >> first_shift)) >> second_shift;
    }
};

/// The codes of one group as they lie in memory, `books` (1 to 4) of them.
template <class Code, int books>
struct GroupCodes {
    static constexpr int bytes = books * static_cast<int>(sizeof(Code));
    static constexpr bool whole = books != 3;  ///< one load takes them all
    static constexpr int words = whole ? (bytes + 3) / 4 : books;
    std::uint32_t word[words];

    __device__ void load(const Code* from) {
        if constexpr (!whole) {
            for (int m = 0; m < books; ++m) word[m] = from[m];
        } else if constexpr (books == 1) {
            word[0] = *from;
        } else if constexpr (bytes == 2) {
            word[0] = *reinterpret_cast<const std::uint16_t*>(from);
        } else if constexpr (bytes == 4) {
            word[0] = *reinterpret_cast<const std::uint32_t*>(from);
        } else {
            const uint2 both = *reinterpret_cast<const uint2*>(from);
            word[0] = both.x;
            word[1] = both.y;
        }
    }
    __device__ std::uint32_t operator[](int m) const {
        if constexpr (!whole || books == 1) return word[m];
        constexpr int a_word = 4 / static_cast<int>(sizeof(Code));
        constexpr std::uint32_t mask = sizeof(Code) == 1 ? 0xffU : 0xffffU;
        return word[m / a_word] >> (m % a_word * 8 * static_cast<int>(sizeof(Code))) & mask;
    }
};

/// More codebooks than with_books knows as a constant: the codes stay in memory.
template <class Code>
struct GroupCodes<Code, 0> {
    const Code* from = nullptr;
    __device__ void load(const Code* codes) { from = codes; }
    __device__ std::uint32_t operator[](int m) const { return from[m]; }
};

/// Codewords in shared memory: each is repeated to fill a line of 128 bytes, which the lanes of a quarter-warp read
/// without bank conflicts whatever their codes, every lane its own 16 bytes.
inline constexpr int line_bytes = 128;

}  // namespace pvtune::cuda
