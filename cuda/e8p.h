#pragma once

#include <cstddef>
#include <cstdint>

/// The codebooks of QuIP# (Tseng et al. 2024, section 4) in bit arithmetic, the same for the CPU and for kernels.
///
/// E8P, 2^16 points of E8 + 1/4, is a 256-entry table of absolute values: |x| of points of D8^, the half-integer
/// vectors with an even sum. A code is (entry << 8 | signs << 1 | shift): signs has a bit for each of coordinates 0 to
/// 6 (1: negative), the sign of coordinate 7 makes the sum even, and shift adds 1/4 to every coordinate (1) or takes it
/// (0): D8^ - 1/4 = D8 + 1/4, so that both halves together are E8 + 1/4.
///
/// 3 bits add an 8-bit code of the residual, whose codebook is the 256 points of E8 with the smallest norms: 0, the 240
/// of norm^2 2 and 15 of norm^2 4. 4 bits add an E8P code of the residual.
namespace pvtune::e8p {

inline constexpr int dim = 8;

/// What residuals are multiplied with before they are encoded, as in the paper's implementation.
inline constexpr float residual_scale_3_bits = 2.04F;
inline constexpr float residual_scale_4_bits = 3.45F;

struct Tables {
    std::uint16_t magnitudes[256];  ///< of E8P: bits 2i and 2i + 1 are |x_i| - 1/2
    std::uint32_t residuals[256];   ///< bits 4i to 4i + 3 are 2 x_i + 4
};

constexpr std::uint32_t parity(std::uint32_t bits) {
    bits ^= bits >> 8;
    bits ^= bits >> 4;
    bits ^= bits >> 2;
    bits ^= bits >> 1;
    return bits & 1;
}

/// 1 where the sum of the absolute values is odd: then an odd number of signs is negative.
constexpr std::uint32_t odd_sum(std::uint32_t magnitudes) { return parity(magnitudes & 0x5555U); }

/// Bit i: coordinate i is negative before the shift.
constexpr std::uint32_t signs_of(std::uint32_t code, std::uint32_t magnitudes) {
    const std::uint32_t seven = code >> 1 & 0x7fU;
    return seven | parity(seven ^ (magnitudes & 0x5555U)) << 7;
}

/// Four times coordinate i of the point, given its entry's magnitudes and signs_of().
constexpr int quarters(std::uint32_t code, std::uint32_t magnitudes, std::uint32_t signs, int i) {
    const int magnitude = static_cast<int>(magnitudes >> (2 * i) & 3U) * 4 + 2;
    return ((signs >> i & 1U) != 0 ? -magnitude : magnitude) + ((code & 1U) != 0 ? 1 : -1);
}

/// Twice coordinate i of a point of the residual's codebook.
constexpr int halves(std::uint32_t packed, int i) { return static_cast<int>(packed >> (4 * i) & 15U) - 4; }

/// The 227 magnitudes of norm^2 up to 10 by their packed value, then 29 of the 56 of norm^2 12 that have no 5/2: every
/// second one, and the last. (Any 29 do: a Gaussian weight meets all of a norm equally often.)
inline Tables make_tables() {
    Tables tables{};
    std::size_t count = 0;
    const auto four_norms = [](std::uint32_t packed) {
        int sum = 0;
        for (int i = 0; i < dim; ++i) {
            const int twice = static_cast<int>(packed >> (2 * i) & 3U) * 2 + 1;
            sum += twice * twice;
        }
        return sum;
    };
    for (std::uint32_t packed = 0; packed < 0x10000U; ++packed) {
        if (four_norms(packed) <= 40) tables.magnitudes[count++] = static_cast<std::uint16_t>(packed);
    }
    int seen = 0;
    for (std::uint32_t packed = 0; packed < 0x10000U; ++packed) {
        if (four_norms(packed) != 48 || (packed & 0xaaaaU) != 0) continue;
        if (seen % 2 == 0 || seen == 55) tables.magnitudes[count++] = static_cast<std::uint16_t>(packed);
        ++seen;
    }

    constexpr std::uint32_t zero = 0x44444444U;
    std::size_t at = 0;
    const auto add = [&](std::uint32_t packed) { tables.residuals[at++] = packed; };
    add(zero);
    for (int i = 0; i < dim; ++i) {
        for (int j = i + 1; j < dim; ++j) {
            for (std::uint32_t signs = 0; signs < 4; ++signs) {
                const std::uint32_t first = (signs & 1U) != 0 ? 2 : 6;
                const std::uint32_t second = (signs & 2U) != 0 ? 2 : 6;
                add((zero & ~(15U << (4 * i)) & ~(15U << (4 * j))) | first << (4 * i) | second << (4 * j));
            }
        }
    }
    for (std::uint32_t signs = 0; signs < 256; ++signs) {
        if (parity(signs) != 0) continue;
        std::uint32_t packed = 0;
        for (int i = 0; i < dim; ++i) packed |= ((signs >> i & 1U) != 0 ? 3U : 5U) << (4 * i);
        add(packed);
    }
    for (int i = 0; i < 15; ++i) {  // 2 e_0, -2 e_0, ...: all but -2 e_7
        add((zero & ~(15U << (4 * (i / 2)))) | (i % 2 == 0 ? 8U : 0U) << (4 * (i / 2)));
    }
    return tables;
}

inline const Tables& tables() {
    static const Tables made = make_tables();
    return made;
}

}  // namespace pvtune::e8p
