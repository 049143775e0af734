#include "host/quant/gptq.h"

#include "host/backend/cpu/chunks.h"
#include "host/quant/damping.h"
#include "host/quant/row_tiles.h"
#include "host/quant/scalar.h"
#include "host/quant/scalar_grid.h"
#include "io/error.h"

#include <chrono>
#include <cmath>

namespace pvtune {
namespace {

using cpu::for_chunks;

constexpr std::int64_t rows_per_chunk = 16;

std::size_t index_of(std::int64_t value) { return static_cast<std::size_t>(value); }

struct Work {
    std::span<const float> weight;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t group = 0;
    std::int64_t grids = 0;  ///< a row
    std::int64_t levels = 0;
    EncodedScalar encoded;

    float highest() const { return static_cast<float>(levels - 1); }
    Grid grid_of(std::int64_t row, std::int64_t column) const {
        const std::size_t at = index_of(row * grids + column / group);
        return {encoded.scales[at], encoded.zeros[at]};
    }
};

/// The diagonal of the Hessian, empty without one.
std::vector<float> importance_of(std::span<const float> hessian, std::int64_t columns) {
    std::vector<float> diagonal;
    for (std::int64_t i = 0; !hessian.empty() && i < columns; ++i)
        diagonal.push_back(hessian[index_of(i * columns + i)]);
    return diagonal;
}

void fit_grids(Work& work, std::span<const float> importance) {
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            for (std::int64_t g = 0; g < work.grids; ++g) {
                const std::size_t first = index_of(g * work.group);
                const std::size_t count = index_of(std::min(work.group, work.columns - g * work.group));
                const Grid grid =
                    fit_grid(work.weight.subspan(index_of(row * work.columns) + first, count),
                             importance.empty() ? importance : importance.subspan(first, count), work.levels);
                work.encoded.scales[index_of(row * work.grids + g)] = grid.scale;
                work.encoded.zeros[index_of(row * work.grids + g)] = grid.zero;
            }
        }
    });
}

void check_storable(const Work& work, const std::string& name) {
    for (std::size_t i = 0; i < work.encoded.scales.size(); ++i) {
        if (std::isfinite(work.encoded.scales[i])) continue;
        throw Error("tensor '" + name + "': row " + std::to_string(static_cast<std::int64_t>(i) / work.grids) +
                    " is too large for a 16-bit scale; the model is damaged, import it again");
    }
}

void round_to_nearest(Work& work) {
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            for (std::int64_t i = 0; i < work.columns; ++i) {
                const std::size_t at = index_of(row * work.columns + i);
                work.encoded.codes[at] =
                    static_cast<std::uint8_t>(nearest_code(work.weight[at], work.grid_of(row, i), work.highest()));
            }
        }
    });
}

/// Rounds one column of a tile to the grids of its rows. errors = what is left of the weights.
void round_column(Work& work, std::int64_t begin, std::int64_t end, std::int64_t column, const TileColumn& feedback,
                  TileColumn& errors) {
    for (std::int64_t row = begin; row < end; ++row) {
        const std::size_t at = index_of(row * work.columns + column);
        const Grid grid = work.grid_of(row, column);
        const float weight = work.weight[at];
        const float code = nearest_code(weight + feedback.values[row - begin], grid, work.highest());
        work.encoded.codes[at] = static_cast<std::uint8_t>(code);
        errors.values[row - begin] = weight - grid.value(code);
    }
}

/// What of column j is rounded: its weight and the sum over the columns i before it of error_i * R[i, j] / R[j, j].
/// The columns go in blocks: the errors before a block meet all its columns in one product.
void round_with_feedback(Work& work, std::span<const std::uint32_t> order, DampedFactor factor) {
    const std::int64_t n = work.columns;
    for (std::int64_t j = 0; j < n; ++j) {
        float* row = factor.transposed.data() + j * n;
        for (std::int64_t i = 0; i < j; ++i) row[i] /= row[j];
    }
    const float* shares = factor.transposed.data();
    for_chunks(work.rows, tile_rows, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        std::vector<TileColumn> errors(index_of(n));
        for (std::int64_t first = 0; first < n; first += tile_columns) {
            TileColumn feedback[tile_columns];
            multiply_tile(feedback, errors.data(), shares, n, first, first);
            for (std::int64_t j = first; j < std::min(n, first + tile_columns); ++j) {
                TileColumn& own = feedback[j - first];
                for (std::int64_t i = first; i < j; ++i) {
                    for (std::int64_t r = 0; r < tile_rows; ++r) {
                        own.values[r] += shares[j * n + i] * errors[index_of(i)].values[r];
                    }
                }
                round_column(work, begin, end, order[index_of(j)], own, errors[index_of(j)]);
            }
        }
    });
}

void fill_report(const Work& work, std::span<const float> hessian, QuantizationReport& report) {
    std::vector<float> difference(work.weight.size());
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            for (std::int64_t i = 0; i < work.columns; ++i) {
                const std::size_t at = index_of(row * work.columns + i);
                difference[at] =
                    work.weight[at] - work.grid_of(row, i).value(static_cast<float>(work.encoded.codes[at]));
            }
        }
    });
    report.squared_error = cpu::square_sum(difference.data(), static_cast<std::int64_t>(difference.size()));
    report.squared_norm = cpu::square_sum(work.weight.data(), static_cast<std::int64_t>(work.weight.size()));
    if (hessian.empty()) return;
    report.output_error = quadratic_form(difference, work.rows, hessian, work.columns);
    report.output_norm = quadratic_form(work.weight, work.rows, hessian, work.columns);
}

}  // namespace

EncodedScalar encode_scalar(const std::string& name, std::span<const float> weight, std::int64_t rows,
                            std::int64_t columns, const QuantizationSpec& spec, std::span<const float> hessian,
                            QuantizationReport* report) {
    const auto start = std::chrono::steady_clock::now();
    check_spec(spec);
    check_finite(name, weight, columns);
    assert(static_cast<std::int64_t>(weight.size()) == rows * columns);
    assert(hessian.empty() || static_cast<std::int64_t>(hessian.size()) == columns * columns);
    Work work{
        weight, rows, columns, grid_columns(spec, columns), grids_of(spec, columns), std::int64_t{1} << spec.code_bits,
        {}};
    work.encoded.codes.resize(weight.size());
    work.encoded.scales.resize(index_of(rows * work.grids));
    work.encoded.zeros.resize(work.encoded.scales.size());

    fit_grids(work, importance_of(hessian, columns));
    check_storable(work, name);
    std::optional<DampedFactor> factor;
    std::vector<std::uint32_t> order;
    if (!hessian.empty()) {
        order = falling_diagonal(hessian, columns);
        factor = damped_factor(hessian, columns, order);
    }
    if (factor) {
        round_with_feedback(work, order, std::move(*factor));
    } else {
        round_to_nearest(work);
    }
    if (report) {
        fill_report(work, hessian, *report);
        report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return std::move(work.encoded);
}

std::unique_ptr<Representation> quantize_scalar(Backend& backend, const std::string& name,
                                                std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                                                const QuantizationSpec& spec, std::span<const float> hessian,
                                                QuantizationReport* report) {
    const EncodedScalar encoded = encode_scalar(name, weight, rows, columns, spec, hessian, report);
    auto representation = std::make_unique<ScalarRepresentation>(backend, rows, columns, spec);
    representation->upload(backend, encoded.codes, encoded.scales, encoded.zeros);
    return representation;
}

}  // namespace pvtune
