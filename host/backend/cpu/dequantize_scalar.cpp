// weight[o, i] = scales[o, g] * (codes[o, i] - zeros[o, g]), g = i / group.
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scalar_rows.h"

namespace pvtune::cpu {
namespace {

constexpr std::int64_t rows_per_chunk = 16;

}  // namespace

void dequantize_scalar(Tensor weight, const ScalarCodes& scalar) {
    assert(weight.elements() == scalar.codes.elements());
    const std::uint8_t* codes = scalar.codes.as<std::uint8_t>();
    const float* scales = scalar.scales.as<float>();
    const float* zeros = scalar.zeros.as<float>();
    with_float_type(weight.dtype, [&]<class Out>() {
        Out* out = weight.as<Out>();
        for_chunks(scalar.codes.dim(0), rows_per_chunk, [&](std::int64_t, std::int64_t first, std::int64_t last) {
            for_grids(scalar, first, last, [&](std::int64_t grid, std::int64_t begin, std::int64_t end) {
                const float scale = scales[grid];
                const float zero = zeros[grid];
#pragma omp simd
                for (std::int64_t i = begin; i < end; ++i) {
                    out[i] = from_float<Out>(scale * (static_cast<float>(codes[i]) - zero));
                }
            });
        });
    });
}

}  // namespace pvtune::cpu
