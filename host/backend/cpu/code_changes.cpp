// Codes of chosen groups: saved, put back, and what their change does to the weights, to the loss, to a distance.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

#include <algorithm>

namespace pvtune::cpu {

void gather_codes(Tensor saved, Tensor codes, Tensor groups) {
    const std::int64_t width = saved.dim(1);
    with_code_type(codes.dtype, [&]<class Code>() {
        for (std::int64_t i = 0; i < groups.elements(); ++i) {
            std::copy_n(codes.as<Code>() + groups.as<std::uint32_t>()[i] * width, width, saved.as<Code>() + i * width);
        }
    });
}

namespace {

constexpr std::int64_t most_group = 16;

/// Calls body(i, at, difference, scale) for every groups[i] = at: difference is the sum of its codewords less that of
/// saved[i], without the scale.
template <class Body>
void for_differences(const AdditiveCodes& additive, Tensor saved, Tensor groups, const Body& body) {
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
            float difference[most_group] = {};
            for (std::int64_t e = 0; e < group; ++e) {
                for (std::int64_t m = 0; m < books; ++m) {
                    difference[e] +=
                        codebooks[(m * size + now[m]) * group + e] - codebooks[(m * size + before[m]) * group + e];
                }
            }
            body(i, at, difference, additive.scales.as<float>()[at / row_groups]);
        }
    });
}

}  // namespace

void code_change(Tensor change, const AdditiveCodes& additive, Tensor saved, Tensor groups) {
    const std::int64_t group = additive.codebooks.dim(2);
    for_differences(additive, saved, groups, [&](std::int64_t i, std::int64_t, const float* difference, float scale) {
        float squares = 0;
        for (std::int64_t e = 0; e < group; ++e) squares += difference[e] * difference[e];
        change.as<float>()[i] = squares * scale * scale;
    });
}

void code_product(Tensor product, const AdditiveCodes& additive, Tensor matrix, Tensor saved, Tensor groups) {
    const std::int64_t group = additive.codebooks.dim(2);
    for_differences(additive, saved, groups,
                    [&](std::int64_t i, std::int64_t at, const float* difference, float scale) {
                        const float* gradient = matrix.as<float>() + at * group;
                        float sum = 0;
                        for (std::int64_t e = 0; e < group; ++e) sum += gradient[e] * difference[e];
                        product.as<float>()[i] = sum * scale;
                    });
}

void code_distance(Tensor distance, const AdditiveCodes& additive, Tensor target, Tensor groups) {
    const std::int64_t row_groups = additive.codes.dim(1);
    const std::int64_t books = additive.codes.dim(2);
    const std::int64_t size = additive.codebooks.dim(1);
    const std::int64_t group = additive.codebooks.dim(2);
    const float* codebooks = additive.codebooks.as<float>();
    with_code_type(additive.codes.dtype, [&]<class Code>() {
#pragma omp parallel for schedule(static)
        for (std::int64_t i = 0; i < groups.elements(); ++i) {
            const std::int64_t at = groups.as<std::uint32_t>()[i];
            const Code* codes = additive.codes.as<Code>() + at * books;
            const float scale = additive.scales.as<float>()[at / row_groups];
            float squares = 0;
            for (std::int64_t e = 0; e < group; ++e) {
                float value = 0;
                for (std::int64_t m = 0; m < books; ++m) value += codebooks[(m * size + codes[m]) * group + e];
                const float rest = target.as<float>()[at * group + e] - scale * value;
                squares += rest * rest;
            }
            distance.as<float>()[i] = squares;
        }
    });
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
