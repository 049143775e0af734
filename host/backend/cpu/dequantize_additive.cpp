// weight[o, g*d + i] = scales[o] * sum_m codebooks[m, codes[o, g, m], i]. Bound by the writing of the weight: codebooks
// of 2^8 stay in the first-level cache.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

namespace pvtune::cpu {
namespace {

constexpr std::int64_t rows_per_chunk = 16;

/// books > 0: their number as a constant; 0: read from `book_count`.
template <class Out, class Code, int group, int books>
void dequantize_rows(Out* __restrict weight, const Code* __restrict codes, const float* __restrict codebooks,
                     const float* __restrict scales, std::int64_t first, std::int64_t last, std::int64_t groups,
                     std::int64_t codebook_size, std::int64_t book_count) {
    const std::int64_t count = books > 0 ? books : book_count;
    for (std::int64_t row = first; row < last; ++row) {
        const float scale = scales[row];
        for (std::int64_t g = 0; g < groups; ++g) {
            const Code* code = codes + (row * groups + g) * count;
            float sum[group] = {};
            for (std::int64_t m = 0; m < count; ++m) {
                const float* codeword = codebooks + (m * codebook_size + code[m]) * group;
#pragma omp simd
                for (int i = 0; i < group; ++i) sum[i] += codeword[i];
            }
            Out* out = weight + (row * groups + g) * group;
#pragma omp simd
            for (int i = 0; i < group; ++i) out[i] = from_float<Out>(scale * sum[i]);
        }
    }
}

}  // namespace

void dequantize_additive(Tensor weight, const AdditiveCodes& additive) {
    const std::int64_t rows = additive.codes.dim(0);
    const std::int64_t groups = additive.codes.dim(1);
    const std::int64_t books = additive.codes.dim(2);
    const std::int64_t codebook_size = additive.codebooks.dim(1);
    const std::int64_t group = additive.codebooks.dim(2);
    assert(weight.elements() == rows * groups * group && additive.codebooks.dim(0) == books);
    const float* codebooks = additive.codebooks.as<float>();
    const float* scales = additive.scales.as<float>();

    const auto run = [&]<class Out, class Code, int width, int constant_books>() {
        Out* out = weight.as<Out>();
        const Code* codes = additive.codes.as<Code>();
        for_chunks(rows, rows_per_chunk, [&](std::int64_t, std::int64_t first, std::int64_t last) {
            dequantize_rows<Out, Code, width, constant_books>(out, codes, codebooks, scales, first, last, groups,
                                                              codebook_size, books);
        });
    };
    with_float_type(weight.dtype, [&]<class Out>() {
        with_code_type(additive.codes.dtype, [&]<class Code>() {
            with_group(group, [&]<int width>() {
                if (books == 1) return run.template operator()<Out, Code, width, 1>();
                if (books == 2) return run.template operator()<Out, Code, width, 2>();
                run.template operator()<Out, Code, width, 0>();
            });
        });
    });
}

}  // namespace pvtune::cpu
