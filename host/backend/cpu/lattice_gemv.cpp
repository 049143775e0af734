// out = left * H (X (H (right * in))) + bias for one row, W never in memory.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/e8p_search.h"
#include "host/backend/cpu/hadamard.h"
#include "host/backend/cpu/quant_ops.h"

#include <vector>

namespace pvtune::cpu {

void lattice_gemv(Tensor out, Tensor in, const LatticeCodes& lattice, Tensor bias) {
    constexpr std::int64_t group = 8;
    constexpr std::int64_t rows_per_chunk = 16;
    const std::int64_t rows = lattice.codes.dim(0);
    const std::int64_t groups = lattice.codes.dim(1);
    const std::int64_t bytes = lattice.codes.dim(2);
    const std::int64_t columns = groups * group;
    assert(in.elements() == columns && out.elements() == rows);
    const auto* codes = lattice.codes.as<std::uint8_t>();
    const float scale = *lattice.scale.as<float>();

    std::vector<float> turned(static_cast<std::size_t>(columns));
    with_float_type(in.dtype, [&]<class T>() {
        for (std::int64_t j = 0; j < columns; ++j) {
            turned[static_cast<std::size_t>(j)] = to_float(in.as<T>()[j]) * lattice.right.as<float>()[j];
        }
    });
    transform_rows(turned.data(), 1, columns);
    std::vector<float> result(static_cast<std::size_t>(rows));
    for_chunks(rows, rows_per_chunk, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        for (std::int64_t row = first; row < last; ++row) {
            float sums[group] = {};
            for (std::int64_t g = 0; g < groups; ++g) {
                float point[group];
                decode_group(point, codes + (row * groups + g) * bytes, bytes);
                const float* own = turned.data() + g * group;
#pragma omp simd
                for (std::int64_t i = 0; i < group; ++i) sums[i] += point[i] * own[i];
            }
            float sum = 0;
            for (const float part : sums) sum += part;
            result[static_cast<std::size_t>(row)] = scale * sum;
        }
    });
    transform_rows(result.data(), 1, rows);
    with_float_type(out.dtype, [&]<class T>() {
        for (std::int64_t row = 0; row < rows; ++row) {
            const float value = lattice.left.as<float>()[row] * result[static_cast<std::size_t>(row)];
            out.as<T>()[row] = from_float<T>(bias.empty() ? value : value + bias.as<float>()[row]);
        }
    });
}

}  // namespace pvtune::cpu
