#include "host/quant/gptq.h"

#include "host/backend/cpu/chunks.h"
#include "host/common/index_of.h"
#include "host/quant/damping.h"
#include "host/quant/device_scratch.h"
#include "host/quant/scalar.h"
#include "host/quant/scalar_grid.h"
#include "io/error.h"

#include <chrono>
#include <cmath>

namespace pvtune {
namespace {

using cpu::for_chunks;

constexpr std::int64_t rows_per_chunk = 16;

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

/// What of a column is added to each of those behind it, by their places in the order: R[i, j] / R[j, j].
std::vector<float> shares_of(DampedFactor factor, std::int64_t columns) {
    for (std::int64_t j = 0; j < columns; ++j) {
        float* row = factor.transposed.data() + j * columns;
        for (std::int64_t i = 0; i < j; ++i) row[i] /= row[j];
    }
    return std::move(factor.transposed);
}

void round_with_feedback(Work& work, Backend& backend, DeviceScratch& scratch, std::span<const std::uint32_t> order,
                         std::span<const float> shares) {
    const std::int64_t n = work.columns;
    const Tensor codes = scratch.allocate(DType::u8, {work.rows, n});
    const ScalarCodes scalar{codes, scratch.upload<float>(work.encoded.scales, {work.rows, work.grids}),
                             scratch.upload<float>(work.encoded.zeros, {work.rows, work.grids}), work.group,
                             work.levels};
    backend.ops().gptq(scalar, scratch.upload<float>(work.weight, {work.rows, n}),
                       scratch.upload<float>(shares, {n, n}), scratch.upload<std::uint32_t>(order, {n}));
    work.encoded.codes = scratch.download<std::uint8_t>(codes);
}

void fill_report(const Work& work, Backend& backend, std::span<const float> hessian, QuantizationReport& report) {
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
    DeviceScratch scratch(backend);
    const Tensor h = scratch.upload(hessian, {work.columns, work.columns});
    const Tensor values = scratch.upload<float>(difference, {work.rows, work.columns});
    report.output_error = scratch.hessian_product(values, values, h);
    backend.upload(values, work.weight.data());
    report.output_norm = scratch.hessian_product(values, values, h);
}

}  // namespace

EncodedScalar encode_scalar(Backend& backend, const std::string& name, std::span<const float> weight, std::int64_t rows,
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
        DeviceScratch scratch(backend);
        round_with_feedback(work, backend, scratch, order, shares_of(std::move(*factor), columns));
    } else {
        round_to_nearest(work);
    }
    if (report) {
        fill_report(work, backend, hessian, *report);
        report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return std::move(work.encoded);
}

std::unique_ptr<Representation> quantize_scalar(Backend& backend, const std::string& name,
                                                std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                                                const QuantizationSpec& spec, std::span<const float> hessian,
                                                QuantizationReport* report) {
    const EncodedScalar encoded = encode_scalar(backend, name, weight, rows, columns, spec, hessian, report);
    auto representation = std::make_unique<ScalarRepresentation>(backend, rows, columns, spec);
    representation->upload(backend, encoded.codes, encoded.scales, encoded.zeros);
    return representation;
}

}  // namespace pvtune
