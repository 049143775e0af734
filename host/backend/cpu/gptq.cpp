#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/row_tiles.h"
#include "host/backend/cpu/scalar_rows.h"
#include "host/common/index_of.h"

#include <cmath>

namespace pvtune::cpu {
namespace {

/// Rounds one column of a tile to the grids of its rows. errors = what is left of the weights.
void round_column(const ScalarCodes& scalar, const float* weights, std::int64_t begin, std::int64_t end,
                  std::int64_t column, const TileColumn& feedback, TileColumn& errors) {
    const std::int64_t columns = scalar.codes.dim(1);
    const std::int64_t grids = grids_a_row(scalar);
    const auto highest = static_cast<float>(scalar.levels - 1);
    for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t grid = row * grids + column / scalar.group;
        const float scale = scalar.scales.as<float>()[grid];
        const float zero = scalar.zeros.as<float>()[grid];
        const float weight = weights[row * columns + column];
        const float place = (weight + feedback.values[row - begin]) / scale + zero;
        const float code = std::clamp(std::ceil(place - 0.5F), 0.0F, highest);
        scalar.codes.as<std::uint8_t>()[row * columns + column] = static_cast<std::uint8_t>(code);
        errors.values[row - begin] = weight - scale * (code - zero);
    }
}

}  // namespace

/// The columns go in blocks: the errors before a block meet all its columns in one product.
void gptq(const ScalarCodes& scalar, Tensor weight, Tensor shares, Tensor order) {
    const std::int64_t n = weight.dim(1);
    const float* share = shares.as<float>();
    const std::uint32_t* columns = order.as<std::uint32_t>();
    for_chunks(weight.dim(0), tile_rows, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        std::vector<TileColumn> errors(index_of(n));
        for (std::int64_t first = 0; first < n; first += tile_columns) {
            TileColumn feedback[tile_columns];
            multiply_tile(feedback, errors.data(), share, n, first, first);
            for (std::int64_t j = first; j < std::min(n, first + tile_columns); ++j) {
                TileColumn& own = feedback[j - first];
                for (std::int64_t i = first; i < j; ++i) {
                    for (std::int64_t r = 0; r < tile_rows; ++r) {
                        own.values[r] += share[j * n + i] * errors[index_of(i)].values[r];
                    }
                }
                round_column(scalar, weight.as<float>(), begin, end, columns[j], own, errors[index_of(j)]);
            }
        }
    });
}

}  // namespace pvtune::cpu
