// From dW, in one pass: d_codebooks[m, k] = sum of scales[o] * dW_group over the groups whose m-th code is k;
// d_scales[o] = <dW[o], What[o] / scales[o]>.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

namespace pvtune::cpu {
namespace {

/// Chunks of rows, each with codebook gradients of its own. Enough to keep many cores busy, and few enough that partial
/// gradients of large codebooks (2^16 x 8: 2 MiB each) do not outweigh the pass over dW.
std::int64_t partial_count(std::int64_t rows, std::int64_t codebook_elements) {
    constexpr std::int64_t most = 32;
    constexpr std::int64_t elements_in_all = std::int64_t{1} << 20;
    return std::min(rows, std::clamp<std::int64_t>(elements_in_all / codebook_elements, 2, most));
}

template <class Code, int group, int books>
void gradient_rows(float* __restrict d_codebooks, float* __restrict d_scales, const float* __restrict d_weight,
                   const Code* __restrict codes, const float* __restrict codebooks, const float* __restrict scales,
                   std::int64_t first, std::int64_t last, std::int64_t groups, std::int64_t codebook_size,
                   std::int64_t book_count) {
    const std::int64_t count = books > 0 ? books : book_count;
    for (std::int64_t row = first; row < last; ++row) {
        const float scale = scales[row];
        float products[group] = {};
        for (std::int64_t g = 0; g < groups; ++g) {
            const Code* code = codes + (row * groups + g) * count;
            const float* gradient = d_weight + (row * groups + g) * group;
            float sum[group] = {};
            for (std::int64_t m = 0; m < count; ++m) {
                const std::int64_t offset = (m * codebook_size + code[m]) * group;
#pragma omp simd
                for (int i = 0; i < group; ++i) {
                    sum[i] += codebooks[offset + i];
                    d_codebooks[offset + i] += scale * gradient[i];
                }
            }
#pragma omp simd
            for (int i = 0; i < group; ++i) products[i] += sum[i] * gradient[i];
        }
        double total = 0;
        for (int i = 0; i < group; ++i) total += static_cast<double>(products[i]);
        d_scales[row] = static_cast<float>(total);
    }
}

}  // namespace

void additive_gradient(Tensor d_codebooks, Tensor d_scales, Tensor d_weight, const AdditiveCodes& additive) {
    const std::int64_t rows = additive.codes.dim(0);
    const std::int64_t groups = additive.codes.dim(1);
    const std::int64_t books = additive.codes.dim(2);
    const std::int64_t codebook_size = additive.codebooks.dim(1);
    const std::int64_t group = additive.codebooks.dim(2);
    const std::int64_t elements = additive.codebooks.elements();
    assert(d_weight.elements() == rows * groups * group && d_codebooks.elements() == elements);
    if (rows == 0) {
        std::fill_n(d_codebooks.as<float>(), elements, 0.0F);
        return;
    }
    const std::int64_t rows_per_chunk = chunk_count(rows, partial_count(rows, elements));
    const std::int64_t chunks = chunk_count(rows, rows_per_chunk);
    std::vector<float> partials(static_cast<std::size_t>(chunks * elements));

    const auto run = [&]<class Code, int width, int constant_books>() {
        for_chunks(rows, rows_per_chunk, [&](std::int64_t chunk, std::int64_t first, std::int64_t last) {
            gradient_rows<Code, width, constant_books>(partials.data() + chunk * elements, d_scales.as<float>(),
                                                       d_weight.as<float>(), additive.codes.as<Code>(),
                                                       additive.codebooks.as<float>(), additive.scales.as<float>(),
                                                       first, last, groups, codebook_size, books);
        });
    };
    with_code_type(additive.codes.dtype, [&]<class Code>() {
        with_group(group, [&]<int width>() {
            if (books == 1) return run.template operator()<Code, width, 1>();
            if (books == 2) return run.template operator()<Code, width, 2>();
            run.template operator()<Code, width, 0>();
        });
    });

    float* out = d_codebooks.as<float>();
    for_chunks(elements, 4096, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        std::copy(partials.data() + begin, partials.data() + end, out + begin);
        for (std::int64_t chunk = 1; chunk < chunks; ++chunk) {
            const float* partial = partials.data() + chunk * elements;
#pragma omp simd
            for (std::int64_t i = begin; i < end; ++i) out[i] += partial[i];
        }
    });
}

}  // namespace pvtune::cpu
