// Taking a V step back: the codes of chosen groups saved, the distance they moved, and their return.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace pvtune::cpu {

void gather_codes(Tensor saved, Tensor codes, Tensor groups) {
    const std::int64_t width = saved.dim(1);
    with_code_type(codes.dtype, [&]<class Code>() {
        for (std::int64_t i = 0; i < groups.elements(); ++i) {
            std::copy_n(codes.as<Code>() + groups.as<std::uint32_t>()[i] * width, width, saved.as<Code>() + i * width);
        }
    });
}

void code_change(Tensor change, const AdditiveCodes& additive, Tensor saved, Tensor groups) {
    const std::int64_t row_groups = additive.codes.dim(1);
    const std::int64_t books = additive.codes.dim(2);
    const std::int64_t size = additive.codebooks.dim(1);
    const std::int64_t group = additive.codebooks.dim(2);
    const float* codebooks = additive.codebooks.as<float>();
    with_code_type(additive.codes.dtype, [&]<class Code>() {
#pragma omp parallel for schedule(static)
        for (std::int64_t i = 0; i < groups.elements(); ++i) {
            const std::int64_t at = groups.as<std::uint32_t>()[i];
            const Code* now = additive.codes.as<Code>() + at * books;
            const Code* before = saved.as<Code>() + i * books;
            float squares = 0;
            for (std::int64_t e = 0; e < group; ++e) {
                float difference = 0;
                for (std::int64_t m = 0; m < books; ++m) {
                    difference +=
                        codebooks[(m * size + now[m]) * group + e] - codebooks[(m * size + before[m]) * group + e];
                }
                squares += difference * difference;
            }
            const float scale = additive.scales.as<float>()[at / row_groups];
            change.as<float>()[i] = squares * scale * scale;
        }
    });
}

void bound_changes(Tensor keep, Tensor change, Tensor scores, Tensor groups, Tensor weight_squares,
                   double trust_ratio) {
    const auto count = static_cast<std::size_t>(groups.elements());
    const auto* group = groups.as<std::uint32_t>();
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return scores.as<float>()[group[a]] > scores.as<float>()[group[b]];
    });
    double budget = trust_ratio * trust_ratio * *weight_squares.as<double>();
    for (const std::size_t i : order) {
        budget -= static_cast<double>(change.as<float>()[i]);
        if (!(budget >= 0)) keep.as<std::uint8_t>()[i] = 0;
    }
}

void restore_codes(Tensor codes, Tensor saved, Tensor groups, Tensor keep) {
    const std::int64_t width = saved.dim(1);
    with_code_type(codes.dtype, [&]<class Code>() {
        for (std::int64_t i = 0; i < groups.elements(); ++i) {
            if (keep.as<std::uint8_t>()[i] != 0) continue;
            std::copy_n(saved.as<Code>() + i * width, width, codes.as<Code>() + groups.as<std::uint32_t>()[i] * width);
        }
    });
}

}  // namespace pvtune::cpu
