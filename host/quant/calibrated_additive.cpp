#include "host/quant/calibrated_additive.h"

#include "host/backend/cpu/beam_search.h"
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/gemm.h"
#include "host/backend/cpu/quant_ops.h"

#include <chrono>
#include <cmath>

namespace pvtune {
namespace {

using cpu::for_chunks;

constexpr std::int64_t rows_per_chunk = 16;
constexpr std::int64_t most_group = 16;

std::size_t index_of(std::int64_t value) { return static_cast<std::size_t>(value); }

float round_to_f16(float value) { return to_float(from_float<f16>(value)); }

struct Work {
    std::span<const float> weight;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t group = 0;
    std::int64_t books = 0;
    std::int64_t size = 0;
    EncodedMatrix encoded;
    std::vector<float> hessian;            ///< [columns, columns], damped, its mean diagonal 1
    std::vector<bf16> narrow_hessian;      ///< the same in bf16, for the directions of a fit
    std::vector<float> weight_hessian;     ///< W H [rows, columns]
    std::vector<float> quantized;          ///< What
    std::vector<float> quantized_hessian;  ///< What H
    std::vector<float> gradient;           ///< G = (W - What) H

    std::int64_t row_groups() const { return columns / group; }
    Tensor matrix(std::vector<float>& values) const { return {values.data(), DType::f32, {rows, columns}}; }
    AdditiveCodes codes_with(std::vector<float>& codebooks) {
        return {{encoded.codes.data(), DType::u16, {rows, row_groups(), books}},
                {codebooks.data(), DType::f32, {books, size, group}},
                {encoded.scales.data(), DType::f32, {rows}}};
    }
};

/// out [rows, columns] = in [rows, inner] * H's rows [first, first + inner), or added to it.
void multiply_hessian(float* out, const float* in, const Work& work, std::int64_t first, std::int64_t inner,
                      bool accumulate) {
    cpu::Gemm problem;
    problem.m = work.rows;
    problem.n = work.columns;
    problem.k = inner;
    problem.left = in;
    problem.left_stride = inner;
    problem.right = work.hessian.data() + first * work.columns;
    problem.right_stride = work.columns;
    problem.result = out;
    problem.result_stride = work.columns;
    problem.accumulate = accumulate;
    cpu::gemm(problem);
}

void multiply_hessian(std::vector<float>& out, const std::vector<float>& in, const Work& work) {
    multiply_hessian(out.data(), in.data(), work, 0, work.columns, false);
}

/// out = in * H of bf16 operands, sums in f32.
void multiply_narrow_hessian(std::vector<float>& out, const std::vector<bf16>& in, const Work& work) {
    cpu::Gemm problem;
    problem.m = work.rows;
    problem.n = work.columns;
    problem.k = work.columns;
    problem.dtype = DType::bf16;
    problem.left = in.data();
    problem.left_stride = work.columns;
    problem.right = work.narrow_hessian.data();
    problem.right_stride = work.columns;
    problem.result = out.data();
    problem.result_stride = work.columns;
    cpu::gemm(problem);
}

/// <a, b> of two matrices, row by row, in f64.
std::vector<double> row_products(const Work& work, std::span<const float> a, std::span<const float> b) {
    std::vector<double> products(index_of(work.rows));
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (std::int64_t i = row * work.columns; i < (row + 1) * work.columns; ++i) {
                sum += static_cast<double>(a[index_of(i)]) * static_cast<double>(b[index_of(i)]);
            }
            products[index_of(row)] = sum;
        }
    });
    return products;
}

double product(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sum;
}

void set_gradient(Work& work) {
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin * work.columns; i < end * work.columns; ++i) {
            work.gradient[index_of(i)] = work.weight_hessian[index_of(i)] - work.quantized_hessian[index_of(i)];
        }
    });
}

/// What, What H and G of the present codes, codebooks and scales, without the rounding that sweeps leave.
void refresh(Work& work) {
    cpu::dequantize_additive(work.matrix(work.quantized), work.codes_with(work.encoded.codebooks));
    multiply_hessian(work.quantized_hessian, work.quantized, work);
    set_gradient(work);
}

/// tr((W - What) H (W - What)^T) = <W, G> - <What, G>, each row's sum in f64.
double objective(const Work& work) {
    const auto with_weight = row_products(work, work.weight, work.gradient);
    const auto with_quantized = row_products(work, work.quantized, work.gradient);
    return cpu::ordered_sum(with_weight) - cpu::ordered_sum(with_quantized);
}

/// The lower Cholesky factor L of H_gg and its inverse; a pivot that rounding made too small is lifted.
struct GroupFactor {
    double lower[most_group][most_group] = {};
    double inverse[most_group][most_group] = {};

    GroupFactor(const Work& work, std::int64_t first) {
        const std::int64_t group = work.group;
        for (std::int64_t i = 0; i < group; ++i) {
            for (std::int64_t j = 0; j <= i; ++j) {
                double sum = static_cast<double>(work.hessian[index_of((first + i) * work.columns + first + j)]);
                const double diagonal = sum;
                for (std::int64_t k = 0; k < j; ++k) sum -= lower[i][k] * lower[j][k];
                lower[i][j] = i == j ? std::sqrt(std::max(sum, 1e-6 * diagonal)) : sum / lower[j][j];
            }
        }
        for (std::int64_t j = 0; j < group; ++j) {
            for (std::int64_t i = j; i < group; ++i) {
                double sum = i == j ? 1 : 0;
                for (std::int64_t k = j; k < i; ++k) sum -= lower[i][k] * inverse[k][j];
                inverse[i][j] = sum / lower[i][i];
            }
        }
    }
};

/// Codebooks times L: c' = c L.
std::vector<float> transformed_codebooks(const Work& work, const GroupFactor& factor) {
    const std::int64_t group = work.group;
    std::vector<float> result(work.encoded.codebooks.size());
    for_chunks(work.books * work.size, 256, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
            for (std::int64_t j = 0; j < group; ++j) {
                double sum = 0;
                for (std::int64_t i = j; i < group; ++i) {
                    sum += static_cast<double>(work.encoded.codebooks[index_of(k * group + i)]) * factor.lower[i][j];
                }
                result[index_of(k * group + j)] = static_cast<float>(sum);
            }
        }
    });
    return result;
}

/// Buffers of a sweep over one block of columns.
struct Block {
    std::int64_t first = 0;
    std::int64_t columns = 0;
    std::vector<float> gradient;       ///< G's columns of the block [rows, columns]
    std::vector<float> change;         ///< What before - What after [rows, columns]
    std::vector<float> targets;        ///< of one group [rows, group]
    std::vector<std::uint16_t> codes;  ///< of one group [rows, books]
};

/// targets = (G_g + What_g H_gg) L^-T / scale = (L^-1 G_g + L^T What_g) / scale: the point that the codes of the group
/// should meet.
template <int group>
void set_targets(const Work& work, Block& block, const GroupFactor& factor, std::int64_t first) {
    const std::int64_t books = work.books;
    const std::int64_t at = first - block.first;
    float inverse_columns[group][group];
    float lower_rows[group][group];
    for (int j = 0; j < group; ++j) {
        for (int i = 0; i < group; ++i) {
            inverse_columns[j][i] = static_cast<float>(factor.inverse[i][j]);
            lower_rows[j][i] = static_cast<float>(factor.lower[j][i]);
        }
    }
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const float* gradient = block.gradient.data() + row * block.columns + at;
            const float* now = work.quantized.data() + row * work.columns + first;
            float point[group] = {};
            for (int j = 0; j < group; ++j) {
#pragma omp simd
                for (int i = 0; i < group; ++i) {
                    point[i] += inverse_columns[j][i] * gradient[j] + lower_rows[j][i] * now[j];
                }
            }
            // A row without scale stays as it is: targets that are not finite keep their codes.
            const float scale = work.encoded.scales[index_of(row)];
            for (int i = 0; i < group; ++i) block.targets[index_of(row * group + i)] = point[i] / scale;
            const std::uint16_t* codes = work.encoded.codes.data() + (row * work.row_groups() + first / group) * books;
            std::copy_n(codes, books, block.codes.begin() + row * books);
        }
    });
}

/// Takes the codes that were found for a group: What, the block's G and its change follow.
void take_codes(Work& work, Block& block, std::int64_t first) {
    const std::int64_t group = work.group;
    const std::int64_t books = work.books;
    const std::int64_t at = first - block.first;
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const std::uint16_t* found = block.codes.data() + row * books;
            std::uint16_t* codes = work.encoded.codes.data() + (row * work.row_groups() + first / group) * books;
            if (std::equal(found, found + books, codes)) continue;
            std::copy_n(found, books, codes);
            float* now = work.quantized.data() + row * work.columns + first;
            float* gradient = block.gradient.data() + row * block.columns;
            float sum[most_group] = {};
            for (std::int64_t m = 0; m < books; ++m) {
                const float* codeword = work.encoded.codebooks.data() + (m * work.size + codes[m]) * group;
                for (std::int64_t i = 0; i < group; ++i) sum[i] += codeword[i];
            }
            for (std::int64_t i = 0; i < group; ++i) {
                const float value = work.encoded.scales[index_of(row)] * sum[i];
                const float change = now[i] - value;
                now[i] = value;
                block.change[index_of(row * block.columns + at + i)] = change;
                const float* hessian = work.hessian.data() + (first + i) * work.columns + block.first;
#pragma omp simd
                for (std::int64_t j = 0; j < block.columns; ++j) gradient[j] += change * hessian[j];
            }
        }
    });
}

/// One pass over all groups, each group's codes the best beside the present others.
void sweep(Work& work, const cpu::BeamSettings& search, std::int64_t block_columns) {
    const std::int64_t group = work.group;
    Block block;
    cpu::CodebookTables tables;
    block.targets.resize(index_of(work.rows * group));
    block.codes.resize(index_of(work.rows * work.books));
    for (block.first = 0; block.first < work.columns; block.first += block.columns) {
        block.columns = std::min(block_columns / group * group, work.columns - block.first);
        block.gradient.resize(index_of(work.rows * block.columns));
        block.change.assign(index_of(work.rows * block.columns), 0);
        for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                std::copy_n(work.gradient.begin() + row * work.columns + block.first, block.columns,
                            block.gradient.begin() + row * block.columns);
            }
        });
        for (std::int64_t first = block.first; first < block.first + block.columns; first += group) {
            const GroupFactor factor(work, first);
            const std::vector<float> codebooks = transformed_codebooks(work, factor);
            with_group(group, [&]<int width>() { set_targets<width>(work, block, factor, first); });
            cpu::set_codebook_tables(tables, codebooks.data(), work.books, work.size, group, work.rows, search);
            cpu::search_codes(tables, block.targets.data(), block.codes.data(), work.rows, search);
            take_codes(work, block, first);
        }
        multiply_hessian(work.gradient.data(), block.change.data(), work, block.first, block.columns, true);
    }
}

/// Conjugate gradients on the codebooks C for the least |W - What(C)|_H, from the present ones. What(C) is linear in C;
/// its adjoint is the codebook gradient of a P step.
void fit_codebooks(Work& work, int iterations) {
    std::vector<float>& codebooks = work.encoded.codebooks;
    const std::size_t elements = codebooks.size();
    std::vector<float> unused(index_of(work.rows));
    std::vector<bf16> narrow(work.quantized.size());
    std::vector<float> matrix(work.quantized.size());
    const auto adjoint = [&](std::vector<float>& out, std::vector<float>& d_weight) {
        const AdditiveCodes additive = work.codes_with(codebooks);
        cpu::additive_gradient({out.data(), DType::f32, {work.books, work.size, work.group}},
                               {unused.data(), DType::f32, {work.rows}}, work.matrix(d_weight), additive);
    };

    // The diagonal of the operator: sum of scale^2 H_jj over the groups that name a codeword.
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            for (std::int64_t i = 0; i < work.columns; ++i) {
                matrix[index_of(row * work.columns + i)] =
                    work.encoded.scales[index_of(row)] * work.hessian[index_of(i * work.columns + i)];
            }
        }
    });
    std::vector<float> diagonal(elements);
    adjoint(diagonal, matrix);
    std::vector<float> residual(elements);
    adjoint(residual, work.gradient);
    std::vector<float> preconditioned(elements);
    std::vector<float> direction(elements);
    std::vector<float> image(elements);
    double old_norm = 0;
    for (int iteration = 0; iteration < iterations; ++iteration) {
        for (std::size_t i = 0; i < elements; ++i) preconditioned[i] = diagonal[i] > 0 ? residual[i] / diagonal[i] : 0;
        const double norm = product(residual, preconditioned);
        if (!(norm > 0)) return;
        const auto beta = static_cast<float>(old_norm > 0 ? norm / old_norm : 0);
        old_norm = norm;
        for (std::size_t i = 0; i < elements; ++i) direction[i] = preconditioned[i] + beta * direction[i];
        cpu::dequantize_additive({narrow.data(), DType::bf16, {work.rows, work.columns}}, work.codes_with(direction));
        multiply_narrow_hessian(matrix, narrow, work);
        adjoint(image, matrix);
        const double curvature = product(direction, image);
        if (!(curvature > 0)) return;
        const auto step = static_cast<float>(norm / curvature);
        for (std::size_t i = 0; i < elements; ++i) codebooks[i] += step * direction[i];
        for (std::size_t i = 0; i < elements; ++i) residual[i] -= step * image[i];
    }
}

/// The best scale of every row beside the present codebooks, <w H, what> / <what H, what> for a row at scale 1. Needs
/// refresh() before, and leaves What, What H and G as they are after.
void fit_scales(Work& work, bool round) {
    const auto with_weight = row_products(work, work.quantized, work.weight_hessian);
    const auto with_itself = row_products(work, work.quantized, work.quantized_hessian);
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            float& scale = work.encoded.scales[index_of(row)];
            const float fitted = static_cast<float>(with_weight[index_of(row)] / with_itself[index_of(row)]) * scale;
            float next = fitted > 0 && std::isfinite(round_to_f16(fitted)) ? fitted : scale;
            if (round) next = round_to_f16(next);
            const float ratio = scale != 0 ? next / scale : 1;
            scale = next;
            for (std::int64_t i = row * work.columns; i < (row + 1) * work.columns; ++i) {
                work.quantized[index_of(i)] *= ratio;
                work.quantized_hessian[index_of(i)] *= ratio;
            }
        }
    });
    set_gradient(work);
}

/// The Hessian with its mean diagonal at 1, damped; one that says nothing (zero, or not finite) becomes the identity.
std::vector<float> normalized(std::span<const float> hessian, std::int64_t columns, double damping) {
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
    return result;
}

}  // namespace

EncodedMatrix encode_additive_calibrated(const std::string& name, std::span<const float> weight, std::int64_t rows,
                                         std::int64_t columns, const QuantizationSpec& spec, std::uint64_t seed,
                                         std::span<const float> hessian, QuantizationReport* report,
                                         const CalibratedSettings& settings) {
    const auto start = std::chrono::steady_clock::now();
    assert(static_cast<std::int64_t>(hessian.size()) == columns * columns);
    Work work;
    work.encoded = encode_additive(name, weight, rows, columns, spec, seed, report, settings.initial);
    work.weight = weight;
    work.rows = rows;
    work.columns = columns;
    work.group = spec.group;
    work.books = spec.codebooks;
    work.size = std::int64_t{1} << spec.code_bits;
    work.hessian = normalized(hessian, columns, settings.damping);
    work.narrow_hessian.resize(work.hessian.size());
    std::transform(work.hessian.begin(), work.hessian.end(), work.narrow_hessian.begin(),
                   [](float value) { return to_bf16(value); });
    for (auto* values : {&work.weight_hessian, &work.quantized, &work.quantized_hessian, &work.gradient}) {
        values->resize(weight.size());
    }
    multiply_hessian(work.weight_hessian.data(), weight.data(), work, 0, columns, false);

    const cpu::BeamSettings search{settings.beam, 1};
    refresh(work);
    double before = objective(work);
    for (int round = 0; round < settings.rounds; ++round) {
        sweep(work, search, settings.block);
        fit_codebooks(work, settings.fit_iterations);
        refresh(work);
        fit_scales(work, false);
        const double after = objective(work);
        const bool converged = !(after < (1 - settings.tolerance) * before);
        before = after;
        if (converged) break;
    }
    // The codes and scales that are kept are chosen for the codebooks as they are stored.
    std::transform(work.encoded.codebooks.begin(), work.encoded.codebooks.end(), work.encoded.codebooks.begin(),
                   round_to_f16);
    refresh(work);
    sweep(work, search, settings.block);
    refresh(work);
    fit_scales(work, true);

    if (report) {
        std::vector<double> errors(index_of(rows));
        for_chunks(rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                for (std::int64_t i = row * columns; i < (row + 1) * columns; ++i) {
                    const auto error = static_cast<double>(weight[index_of(i)] - work.quantized[index_of(i)]);
                    errors[index_of(row)] += error * error;
                }
            }
        });
        report->squared_error = cpu::ordered_sum(errors);
        report->output_error = objective(work);
        report->output_norm = cpu::ordered_sum(row_products(work, weight, work.weight_hessian));
        report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return std::move(work.encoded);
}

}  // namespace pvtune
