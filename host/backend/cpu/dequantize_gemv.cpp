// out = W in (+ bias), W[o, g*d + i] = scales[o] * sum_m codebooks[m, codes[o, g, m], i], W never in memory.
//
// Bound by loads from the first-level cache, one codeword a code: a few rows at once share what is read of `in` and
// hide the latency of their sums. (A table of the products of each group of `in` with all codewords needs as many
// loads, of four bytes each instead of a codeword, but from tables that no longer fit that cache, and it has to be made
// first: 1.25 to 2.1 times slower for one and two codebooks of 2^8 on SmolLM2-135M's matrices, one thread, AVX-512.)
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scratch.h"

#include <cstring>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t rows_per_chunk = 16;
constexpr int rows_at_once = 4;

template <int group>
using Lanes [[gnu::vector_size(group * sizeof(float))]] = float;

/// sums[r] = <row first + r of W, in> / scale. Rows past `last` are summed like the last one. books > 0: their number
/// as a constant; 0: read from the tensor.
template <class Code, int group, int books>
void sum_rows(float (&sums)[rows_at_once], const float* in, const AdditiveCodes& additive, std::int64_t first,
              std::int64_t last) {
    using Vector = Lanes<group>;
    const std::int64_t groups = additive.codes.dim(1);
    const std::int64_t count = books > 0 ? books : additive.codes.dim(2);
    const std::int64_t codebook_size = additive.codebooks.dim(1);
    const float* codebooks = additive.codebooks.as<float>();
    const Code* codes[rows_at_once];
    for (int r = 0; r < rows_at_once; ++r) {
        codes[r] = additive.codes.as<Code>() + std::min(first + r, last) * groups * count;
    }
    Vector partial[rows_at_once] = {};
    for (std::int64_t g = 0; g < groups; ++g) {
        Vector values;
        std::memcpy(&values, in + g * group, sizeof(values));
        for (int r = 0; r < rows_at_once; ++r) {
            Vector weights = {};
            for (std::int64_t m = 0; m < count; ++m) {
                Vector codeword;
                std::memcpy(&codeword, codebooks + (m * codebook_size + codes[r][g * count + m]) * group,
                            sizeof(codeword));
                weights = m == 0 ? codeword : weights + codeword;
            }
            partial[r] += weights * values;
        }
    }
    for (int r = 0; r < rows_at_once; ++r) {
        sums[r] = 0;
        for (int i = 0; i < group; ++i) sums[r] += partial[r][i];
    }
}

template <class T>
const float* as_floats(const T* values, std::int64_t count) {
    if constexpr (std::is_same_v<T, float>) return values;
    static thread_local Scratch scratch;
    auto* floats = scratch.get<float>(count);
    for (std::int64_t i = 0; i < count; ++i) floats[i] = to_float(values[i]);
    return floats;
}

template <class T, class Code, int group, int books>
void gemv(Tensor out, Tensor in, const AdditiveCodes& additive, const float* bias) {
    const float* values = as_floats(in.as<T>(), in.elements());
    const float* scales = additive.scales.as<float>();
    T* results = out.as<T>();
    for_chunks(out.elements(), rows_per_chunk, [&](std::int64_t, std::int64_t first, std::int64_t end) {
        for (std::int64_t row = first; row < end; row += rows_at_once) {
            float sums[rows_at_once];
            sum_rows<Code, group, books>(sums, values, additive, row, end - 1);
            const std::int64_t count = std::min<std::int64_t>(rows_at_once, end - row);
            for (std::int64_t r = 0; r < count; ++r) {
                const float sum = scales[row + r] * sums[r];
                results[row + r] = from_float<T>(bias != nullptr ? sum + bias[row + r] : sum);
            }
        }
    });
}

}  // namespace

void dequantize_gemv(Tensor out, Tensor in, const AdditiveCodes& additive, Tensor bias) {
    const std::int64_t books = additive.codes.dim(2);
    const std::int64_t group_size = additive.codebooks.dim(2);
    assert(out.elements() == additive.codes.dim(0) && in.elements() == additive.codes.dim(1) * group_size);
    assert(bias.empty() || bias.elements() == out.elements());
    const float* biases = bias.empty() ? nullptr : bias.as<float>();
    with_float_type(in.dtype, [&]<class T>() {
        with_code_type(additive.codes.dtype, [&]<class Code>() {
            with_group(group_size, [&]<int group>() {
                if (books == 1) return gemv<T, Code, group, 1>(out, in, additive, biases);
                if (books == 2) return gemv<T, Code, group, 2>(out, in, additive, biases);
                gemv<T, Code, group, 0>(out, in, additive, biases);
            });
        });
    });
}

}  // namespace pvtune::cpu
