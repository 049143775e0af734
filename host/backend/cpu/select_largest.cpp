// The indices of the largest scores, by radix select: three histograms over 11, 11 and 10 bits of an order-preserving
// key find the smallest key that is chosen, a last pass writes the indices. O(n), no copies of the scores.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

#include <array>
#include <bit>

namespace pvtune::cpu {
namespace {

/// Grows with the score; a NaN is below everything, and -0 equals 0.
inline std::uint32_t key_of(float score) {
    const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);
    const std::uint32_t ordered = bits & 0x80000000U ? ~bits : bits | 0x80000000U;
    return (bits & 0x7fffffffU) > 0x7f800000U ? 0U : ordered;
}

}  // namespace

void select_largest(Tensor indices, Tensor scores) {
    const std::int64_t count = indices.elements();
    const std::int64_t groups = scores.elements();
    assert(count <= groups);
    const float* in = scores.as<float>();
    std::uint32_t* out = indices.as<std::uint32_t>();
    if (count == 0) return;

    std::uint32_t prefix = 0;        // the bits of the threshold that are known
    std::uint32_t known = 0;         // mask of those bits
    std::int64_t remaining = count;  // to be chosen among the keys that share the prefix
    for (const auto& [shift, bits] : {std::pair{21, 11}, std::pair{10, 11}, std::pair{0, 10}}) {
        std::array<std::int64_t, 2048> histogram{};
        const std::uint32_t mask = (1U << bits) - 1;
        for (std::int64_t i = 0; i < groups; ++i) {
            const std::uint32_t key = key_of(in[i]);
            if ((key & known) == prefix) ++histogram[(key >> shift) & mask];
        }
        std::uint32_t digit = mask;
        while (remaining > histogram[digit]) remaining -= histogram[digit--];
        prefix |= digit << shift;
        known |= mask << shift;
    }
    // Every key above the threshold, and the first `remaining` of those that equal it.
    for (std::int64_t i = 0; i < groups; ++i) {
        const std::uint32_t key = key_of(in[i]);
        if (key < prefix || (key == prefix && remaining == 0)) continue;
        if (key == prefix) --remaining;
        *out++ = static_cast<std::uint32_t>(i);
    }
}

}  // namespace pvtune::cpu
