#include "host/quant/calibrated_additive.h"

#include "host/common/index_of.h"
#include "host/quant/device_scratch.h"

#include <chrono>
#include <cmath>

namespace pvtune {
namespace {

using cpu::for_chunks;

constexpr std::int64_t rows_per_chunk = 16;

struct Normalized {
    std::vector<float> hessian;  ///< mean diagonal 1, damped
    double mean = 0;             ///< of the diagonal as it was; 0: the Hessian said nothing (zero, or not finite) and
                                 ///< became the identity
};

Normalized normalized(std::span<const float> hessian, std::int64_t columns, double damping) {
    double trace = 0;
    for (std::int64_t i = 0; i < columns; ++i) trace += static_cast<double>(hessian[index_of(i * columns + i)]);
    const double mean = trace / static_cast<double>(columns);
    const bool usable = mean > 0 && std::all_of(hessian.begin(), hessian.end(), [&](float value) {
                            return std::isfinite(static_cast<double>(value) / mean);
                        });
    std::vector<float> result(hessian.size());
    for_chunks(columns, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin * columns; usable && i < end * columns; ++i) {
            result[index_of(i)] = static_cast<float>(static_cast<double>(hessian[index_of(i)]) / mean);
        }
        for (std::int64_t i = begin; i < end; ++i) {
            result[index_of(i * columns + i)] += static_cast<float>(usable ? damping : 1);
        }
    });
    return {std::move(result), usable ? mean : 0};
}

/// Of every group of columns the lower Cholesky factor L of H_gg and its inverse, [groups, 2, group, group]; a pivot
/// that rounding made too small is lifted.
std::vector<double> group_factors(std::span<const float> hessian, std::int64_t columns, std::int64_t group) {
    std::vector<double> factors(index_of(columns / group * 2 * group * group));
    for (std::int64_t g = 0; g < columns / group; ++g) {
        double* lower = factors.data() + g * 2 * group * group;
        double* inverse = lower + group * group;
        for (std::int64_t i = 0; i < group; ++i) {
            for (std::int64_t j = 0; j <= i; ++j) {
                double sum = static_cast<double>(hessian[index_of((g * group + i) * columns + g * group + j)]);
                const double diagonal = sum;
                for (std::int64_t k = 0; k < j; ++k) sum -= lower[i * group + k] * lower[j * group + k];
                lower[i * group + j] = i == j ? std::sqrt(std::max(sum, 1e-6 * diagonal)) : sum / lower[j * group + j];
            }
        }
        for (std::int64_t j = 0; j < group; ++j) {
            for (std::int64_t i = j; i < group; ++i) {
                double sum = i == j ? 1 : 0;
                for (std::int64_t k = j; k < i; ++k) sum -= lower[i * group + k] * inverse[k * group + j];
                inverse[i * group + j] = sum / lower[i * group + i];
            }
        }
    }
    return factors;
}

/// Matrices are on the backend's device; codebooks and scales, which are small, on both sides.
struct Work {
    Backend& backend;
    Ops& ops;
    DeviceScratch scratch;
    EncodedMatrix& encoded;  ///< its codes are set at the end
    AdditiveCodes additive;
    Tensor weight;
    Tensor hessian;            ///< [columns, columns], damped, its mean diagonal 1
    Tensor narrow_hessian;     ///< the same in bf16, for the directions of a fit
    Tensor diagonal;           ///< of it [1, columns]
    Tensor factors;            ///< group_factors()
    Tensor weight_hessian;     ///< W H [rows, columns]
    Tensor quantized;          ///< What
    Tensor quantized_hessian;  ///< What H
    Tensor gradient;           ///< G = (W - What) H
    Tensor matrix;             ///< [rows, columns], of a fit
    Tensor narrow_matrix;      ///< likewise, bf16
    Tensor direction;          ///< codebooks
    Tensor d_codebooks, d_scales;

    Work(Backend& device, EncodedMatrix& start, std::span<const float> w, const QuantizationSpec& spec,
         std::span<const float> normalized_hessian);
};

Work::Work(Backend& device, EncodedMatrix& start, std::span<const float> w, const QuantizationSpec& spec,
           std::span<const float> normalized_hessian)
    : backend(device), ops(device.ops()), scratch(device), encoded(start) {
    const auto rows = static_cast<std::int64_t>(encoded.scales.size());
    const std::int64_t columns = static_cast<std::int64_t>(w.size()) / rows;
    const std::int64_t group = spec.group;
    const std::int64_t books = spec.codebooks;
    const std::int64_t size = std::int64_t{1} << spec.code_bits;
    additive = {scratch.upload<std::uint16_t>(encoded.codes, {rows, columns / group, books}),
                scratch.upload<float>(encoded.codebooks, {books, size, group}),
                scratch.upload<float>(encoded.scales, {rows})};
    weight = scratch.upload(w, {rows, columns});
    hessian = scratch.upload(normalized_hessian, {columns, columns});
    narrow_hessian = scratch.allocate(DType::bf16, {columns, columns});
    ops.convert(narrow_hessian, hessian);
    std::vector<float> on_diagonal(index_of(columns));
    for (std::int64_t i = 0; i < columns; ++i) on_diagonal[index_of(i)] = normalized_hessian[index_of(i * columns + i)];
    diagonal = scratch.upload<float>(on_diagonal, {1, columns});
    factors =
        scratch.upload<double>(group_factors(normalized_hessian, columns, group), {columns / group, 2, group, group});
    for (Tensor* tensor : {&weight_hessian, &quantized, &quantized_hessian, &gradient, &matrix}) {
        *tensor = scratch.allocate(DType::f32, {rows, columns});
    }
    narrow_matrix = scratch.allocate(DType::bf16, {rows, columns});
    direction = scratch.allocate(DType::f32, {books, size, group});
    d_codebooks = scratch.allocate(DType::f32, {books, size, group});
    d_scales = scratch.allocate(DType::f32, {rows});
    ops.linear_backward_input(weight_hessian, weight, hessian, false);
}

double product(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sum;
}

void set_difference(Work& work, Tensor out, Tensor a, Tensor b) {
    work.ops.convert(out, a);
    work.ops.add_scaled(out, b, -1);
}

/// What, What H and G of the present codes, codebooks and scales, without the rounding that sweeps leave.
void refresh(Work& work) {
    work.ops.dequantize_additive(work.quantized, work.additive);
    work.ops.linear_backward_input(work.quantized_hessian, work.quantized, work.hessian, false);
    set_difference(work, work.gradient, work.weight_hessian, work.quantized_hessian);
}

/// tr((W - What) H (W - What)^T) = <W, G> - <What, G>, each row's sum in f64.
double objective(Work& work) {
    return cpu::ordered_sum(work.scratch.row_products(work.weight, work.gradient)) -
           cpu::ordered_sum(work.scratch.row_products(work.quantized, work.gradient));
}

/// Conjugate gradients on the codebooks C for the least |W - What(C)|_H, from the present ones. What(C) is linear in C;
/// its adjoint is the codebook gradient of a P step.
void fit_codebooks(Work& work, int iterations) {
    std::vector<float>& codebooks = work.encoded.codebooks;
    const std::size_t elements = codebooks.size();
    const auto adjoint = [&](Tensor d_weight) {
        work.ops.additive_gradient(work.d_codebooks, work.d_scales, d_weight, work.additive);
        return work.scratch.download<float>(work.d_codebooks);
    };
    // The diagonal of the operator: sum of scale^2 H_jj over the groups that name a codeword.
    work.ops.linear_backward_input(work.matrix, work.additive.scales.reshaped({work.additive.scales.elements(), 1}),
                                   work.diagonal, false);
    const std::vector<float> diagonal = adjoint(work.matrix);
    std::vector<float> residual = adjoint(work.gradient);
    std::vector<float> preconditioned(elements);
    std::vector<float> direction(elements);
    double old_norm = 0;
    for (int iteration = 0; iteration < iterations; ++iteration) {
        for (std::size_t i = 0; i < elements; ++i) preconditioned[i] = diagonal[i] > 0 ? residual[i] / diagonal[i] : 0;
        const double norm = product(residual, preconditioned);
        if (!(norm > 0)) break;
        const auto beta = static_cast<float>(old_norm > 0 ? norm / old_norm : 0);
        old_norm = norm;
        for (std::size_t i = 0; i < elements; ++i) direction[i] = preconditioned[i] + beta * direction[i];
        work.backend.upload(work.direction, direction.data());
        work.ops.dequantize_additive(work.narrow_matrix, {work.additive.codes, work.direction, work.additive.scales});
        work.ops.linear_backward_input(work.matrix, work.narrow_matrix, work.narrow_hessian, false);
        const std::vector<float> image = adjoint(work.matrix);
        const double curvature = product(direction, image);
        if (!(curvature > 0)) break;
        const auto step = static_cast<float>(norm / curvature);
        for (std::size_t i = 0; i < elements; ++i) codebooks[i] += step * direction[i];
        for (std::size_t i = 0; i < elements; ++i) residual[i] -= step * image[i];
    }
    work.backend.upload(work.additive.codebooks, codebooks.data());
}

/// The best scale of every row beside the present codebooks, <w H, what> / <what H, what> for a row at scale 1. Needs
/// refresh() before, and leaves What, What H and G as they are after.
void fit_scales(Work& work, bool round) {
    const auto with_weight = work.scratch.row_products(work.quantized, work.weight_hessian);
    const auto with_itself = work.scratch.row_products(work.quantized, work.quantized_hessian);
    std::vector<float> ratios;
    for (std::size_t row = 0; row < with_weight.size(); ++row) {
        float& scale = work.encoded.scales[row];
        const float fitted = static_cast<float>(with_weight[row] / with_itself[row]) * scale;
        float next = fitted > 0 && std::isfinite(round_to_f16(fitted)) ? fitted : scale;
        if (round) next = round_to_f16(next);
        ratios.push_back(scale != 0 ? next / scale : 1);
        scale = next;
    }
    work.backend.upload(work.additive.scales, work.encoded.scales.data());
    const Tensor factors = work.d_scales;  // free outside a fit of codebooks
    work.backend.upload(factors, ratios.data());
    work.ops.scale_rows(work.quantized, factors);
    work.ops.scale_rows(work.quantized_hessian, factors);
    set_difference(work, work.gradient, work.weight_hessian, work.quantized_hessian);
}

}  // namespace

EncodedMatrix encode_additive_calibrated(Backend& backend, const std::string& name, std::span<const float> weight,
                                         std::int64_t rows, std::int64_t columns, const QuantizationSpec& spec,
                                         std::uint64_t seed, std::span<const float> hessian, QuantizationReport* report,
                                         const CalibratedSettings& settings) {
    const auto start = std::chrono::steady_clock::now();
    assert(static_cast<std::int64_t>(hessian.size()) == columns * columns);
    EncodedMatrix encoded = encode_additive(backend, name, weight, rows, columns, spec, seed, report, settings.initial);
    const Normalized used = normalized(hessian, columns, settings.damping);
    Work work(backend, encoded, weight, spec, used.hessian);
    const auto sweep = [&] {
        work.ops.additive_sweep(work.additive, work.quantized, work.gradient, work.hessian, work.factors, settings.beam,
                                settings.block);
    };
    refresh(work);
    double before = objective(work);
    for (int round = 0; round < settings.rounds; ++round) {
        sweep();
        fit_codebooks(work, settings.fit_iterations);
        refresh(work);
        fit_scales(work, false);
        const double after = objective(work);
        const bool converged = !(after < (1 - settings.tolerance) * before);
        before = after;
        if (converged) break;
    }
    // The codes and scales that are kept are chosen for the codebooks as they are stored.
    std::transform(encoded.codebooks.begin(), encoded.codebooks.end(), encoded.codebooks.begin(), round_to_f16);
    backend.upload(work.additive.codebooks, encoded.codebooks.data());
    refresh(work);
    sweep();
    refresh(work);
    fit_scales(work, true);
    encoded.codes = work.scratch.download<std::uint16_t>(work.additive.codes);

    if (report) {
        const double error = objective(work);
        const double norm = cpu::ordered_sum(work.scratch.row_products(work.weight, work.weight_hessian));
        set_difference(work, work.matrix, work.weight, work.quantized);
        report->squared_error = cpu::ordered_sum(work.scratch.row_products(work.matrix, work.matrix));
        // By the Hessian as it came, as other representations report it.
        report->output_error = used.mean * std::max(0.0, error - settings.damping * report->squared_error);
        report->output_norm = used.mean * (norm - settings.damping * report->squared_norm);
        report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return encoded;
}

}  // namespace pvtune
