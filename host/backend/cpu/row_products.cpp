// Products of rows of two matrices, in f64: plain, and with a symmetric matrix between them.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/row_tiles.h"

namespace pvtune::cpu {

void row_products(Tensor products, Tensor a, Tensor b) {
    constexpr std::int64_t rows_per_chunk = 16;
    const std::int64_t columns = a.dim(1);
    for_chunks(a.dim(0), rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const float* left = a.as<float>() + row * columns;
            const float* right = b.as<float>() + row * columns;
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (std::int64_t i = 0; i < columns; ++i) {
                sum += static_cast<double>(left[i]) * static_cast<double>(right[i]);
            }
            products.as<double>()[row] = sum;
        }
    });
}

void hessian_products(Tensor products, Tensor a, Tensor b, Tensor hessian) {
    const std::int64_t n = hessian.dim(0);
    for_chunks(a.dim(0), tile_rows, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        std::vector<TileColumn> tile(static_cast<std::size_t>(n));
        for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t row = begin; row < end; ++row) {
                tile[static_cast<std::size_t>(i)].values[row - begin] = b.as<float>()[row * n + i];
            }
        }
        double* sums = products.as<double>() + begin;
        std::fill_n(sums, end - begin, 0.0);
        for (std::int64_t first = 0; first < n; first += tile_columns) {
            TileColumn images[tile_columns];
            multiply_tile(images, tile.data(), hessian.as<float>(), n, first, n);
            for (std::int64_t c = 0; c < std::min<std::int64_t>(tile_columns, n - first); ++c) {
                const float* own = a.as<float>() + begin * n + first + c;
                for (std::int64_t row = 0; row < end - begin; ++row) {
                    sums[row] += static_cast<double>(own[row * n]) * static_cast<double>(images[c].values[row]);
                }
            }
        }
    });
}

}  // namespace pvtune::cpu
