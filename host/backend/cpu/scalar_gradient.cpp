// d_scales[o, g] = sum of d_weight * (code - zero), d_zeros[o, g] = -scale * sum of d_weight, over the grid's weights.
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scalar_rows.h"

namespace pvtune::cpu {
namespace {

constexpr std::int64_t rows_per_chunk = 16;

}  // namespace

void scalar_gradient(Tensor d_scales, Tensor d_zeros, Tensor d_weight, const ScalarCodes& scalar) {
    assert(d_weight.elements() == scalar.codes.elements() && d_scales.elements() == scalar.scales.elements());
    assert(d_zeros.elements() == scalar.zeros.elements());
    const std::uint8_t* codes = scalar.codes.as<std::uint8_t>();
    const float* gradient = d_weight.as<float>();
    for_chunks(scalar.codes.dim(0), rows_per_chunk, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        for_grids(scalar, first, last, [&](std::int64_t grid, std::int64_t begin, std::int64_t end) {
            const float zero = scalar.zeros.as<float>()[grid];
            float scale_sum = 0;
            float sum = 0;
#pragma omp simd reduction(+ : scale_sum, sum)
            for (std::int64_t i = begin; i < end; ++i) {
                scale_sum += gradient[i] * (static_cast<float>(codes[i]) - zero);
                sum += gradient[i];
            }
            d_scales.as<float>()[grid] = scale_sum;
            d_zeros.as<float>()[grid] = -scalar.scales.as<float>()[grid] * sum;
        });
    });
}

}  // namespace pvtune::cpu
