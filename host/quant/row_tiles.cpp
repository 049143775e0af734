#include "host/quant/row_tiles.h"

#include "host/backend/cpu/chunks.h"

namespace pvtune {

double quadratic_form(std::span<const float> difference, std::int64_t rows, std::span<const float> hessian,
                      std::int64_t n) {
    std::vector<double> partials(static_cast<std::size_t>(cpu::chunk_count(rows, tile_rows)));
    cpu::for_chunks(rows, tile_rows, [&](std::int64_t index, std::int64_t begin, std::int64_t end) {
        std::vector<TileColumn> tile(static_cast<std::size_t>(n));
        for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t row = begin; row < end; ++row) {
                tile[static_cast<std::size_t>(i)].values[row - begin] =
                    difference[static_cast<std::size_t>(row * n + i)];
            }
        }
        double sum = 0;
        for (std::int64_t first = 0; first < n; first += tile_columns) {
            TileColumn products[tile_columns];
            multiply_tile(products, tile.data(), hessian.data(), n, first, n);
            for (std::int64_t c = 0; c < std::min<std::int64_t>(tile_columns, n - first); ++c) {
                const TileColumn& own = tile[static_cast<std::size_t>(first + c)];
                for (std::int64_t row = 0; row < end - begin; ++row) {
                    sum += static_cast<double>(own.values[row]) * static_cast<double>(products[c].values[row]);
                }
            }
        }
        partials[static_cast<std::size_t>(index)] = sum;
    });
    return cpu::ordered_sum(partials);
}

}  // namespace pvtune
