// out = W in (+ bias) straight from the codes: sum over the grids of scale * (<codes, in> - zero * sum of in). The sums
// of `in` are the same for every row.
#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scalar_rows.h"
#include "host/backend/cpu/scratch.h"

namespace pvtune::cpu {
namespace {

constexpr std::int64_t rows_per_chunk = 16;

}  // namespace

void scalar_gemv(Tensor out, Tensor in, const ScalarCodes& scalar, Tensor bias) {
    const std::int64_t columns = scalar.codes.dim(1);
    const std::int64_t grids = grids_a_row(scalar);
    assert(out.elements() == scalar.codes.dim(0) && in.elements() == columns);
    static thread_local Scratch scratch;
    float* values = scratch.get<float>(columns + grids);
    float* sums = values + columns;
    convert(Tensor(values, DType::f32, {columns}), in);
    for (std::int64_t g = 0; g < grids; ++g) {
        sums[g] = 0;
        for (std::int64_t i = g * scalar.group; i < std::min(columns, (g + 1) * scalar.group); ++i)
            sums[g] += values[i];
    }
    const std::uint8_t* codes = scalar.codes.as<std::uint8_t>();
    with_float_type(out.dtype, [&]<class T>() {
        for_chunks(scalar.codes.dim(0), rows_per_chunk, [&](std::int64_t, std::int64_t first, std::int64_t last) {
            for (std::int64_t row = first; row < last; ++row) {
                float total = bias.empty() ? 0 : bias.as<float>()[row];
                for_grids(scalar, row, row + 1, [&](std::int64_t grid, std::int64_t begin, std::int64_t end) {
                    const float* in_grid = values + (begin - row * columns);
                    float sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (std::int64_t i = 0; i < end - begin; ++i) {
                        sum += static_cast<float>(codes[begin + i]) * in_grid[i];
                    }
                    total += scalar.scales.as<float>()[grid] *
                             (sum - scalar.zeros.as<float>()[grid] * sums[grid - row * grids]);
                });
                out.as<T>()[row] = from_float<T>(total);
            }
        });
    });
}

}  // namespace pvtune::cpu
