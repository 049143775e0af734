#include "host/backend/cpu/beam_search.h"
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/gemm.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/common/index_of.h"

namespace pvtune::cpu {
namespace {

constexpr std::int64_t rows_per_chunk = 16;
constexpr std::int64_t most_group = 16;

/// The operands of a sweep and the buffers of its present block of columns.
struct Sweep {
    std::int64_t rows, columns, group, books, size;
    const float* codebooks;
    const float* scales;
    const float* hessian;
    std::uint16_t* codes;
    float* quantized;

    std::int64_t first = 0;                ///< column of the block
    std::int64_t width = 0;                ///< columns of the block
    std::vector<float> gradient{};         ///< G's columns of the block [rows, width]
    std::vector<float> change{};           ///< What before - What after [rows, width]
    std::vector<float> targets{};          ///< of one group [rows, group]
    std::vector<std::uint16_t> present{};  ///< codes of one group [rows, books]

    std::uint16_t* codes_of(std::int64_t row, std::int64_t column) const {
        return codes + (row * (columns / group) + column / group) * books;
    }
};

/// Codebooks times L: c' = c L.
std::vector<float> transformed_codebooks(const Sweep& sweep, const double* lower) {
    const std::int64_t group = sweep.group;
    std::vector<float> result(index_of(sweep.books * sweep.size * group));
    for_chunks(sweep.books * sweep.size, 256, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
            for (std::int64_t j = 0; j < group; ++j) {
                double sum = 0;
                for (std::int64_t i = j; i < group; ++i) {
                    sum += static_cast<double>(sweep.codebooks[k * group + i]) * lower[i * group + j];
                }
                result[index_of(k * group + j)] = static_cast<float>(sum);
            }
        }
    });
    return result;
}

/// targets = (G_g + What_g H_gg) L^-T / scale = (L^-1 G_g + L^T What_g) / scale: the point that the codes of the group
/// at column `column` should meet.
template <int group>
void set_targets(Sweep& sweep, const double* lower, const double* inverse, std::int64_t column) {
    float inverse_columns[group][group];
    float lower_rows[group][group];
    for (int j = 0; j < group; ++j) {
        for (int i = 0; i < group; ++i) {
            inverse_columns[j][i] = static_cast<float>(inverse[i * group + j]);
            lower_rows[j][i] = static_cast<float>(lower[j * group + i]);
        }
    }
    for_chunks(sweep.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const float* gradient = sweep.gradient.data() + row * sweep.width + column - sweep.first;
            const float* now = sweep.quantized + row * sweep.columns + column;
            float point[group] = {};
            for (int j = 0; j < group; ++j) {
#pragma omp simd
                for (int i = 0; i < group; ++i) {
                    point[i] += inverse_columns[j][i] * gradient[j] + lower_rows[j][i] * now[j];
                }
            }
            // A row without scale stays as it is: targets that are not finite keep their codes.
            const float scale = sweep.scales[row];
            for (int i = 0; i < group; ++i) sweep.targets[index_of(row * group + i)] = point[i] / scale;
            std::copy_n(sweep.codes_of(row, column), sweep.books, sweep.present.begin() + row * sweep.books);
        }
    });
}

/// Takes the codes that were found for a group: What, the block's G and its change follow.
void take_codes(Sweep& sweep, std::int64_t column) {
    const std::int64_t group = sweep.group;
    const std::int64_t books = sweep.books;
    for_chunks(sweep.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const std::uint16_t* found = sweep.present.data() + row * books;
            std::uint16_t* codes = sweep.codes_of(row, column);
            if (std::equal(found, found + books, codes)) continue;
            std::copy_n(found, books, codes);
            float* now = sweep.quantized + row * sweep.columns + column;
            float* gradient = sweep.gradient.data() + row * sweep.width;
            float sum[most_group] = {};
            for (std::int64_t m = 0; m < books; ++m) {
                const float* codeword = sweep.codebooks + (m * sweep.size + codes[m]) * group;
                for (std::int64_t i = 0; i < group; ++i) sum[i] += codeword[i];
            }
            for (std::int64_t i = 0; i < group; ++i) {
                const float value = sweep.scales[row] * sum[i];
                const float change = now[i] - value;
                now[i] = value;
                sweep.change[index_of(row * sweep.width + column - sweep.first + i)] = change;
                const float* hessian = sweep.hessian + (column + i) * sweep.columns + sweep.first;
#pragma omp simd
                for (std::int64_t j = 0; j < sweep.width; ++j) gradient[j] += change * hessian[j];
            }
        }
    });
}

/// gradient [rows, columns] += the block's change * its rows of H.
void feed_forward(const Sweep& sweep, float* gradient) {
    Gemm problem;
    problem.m = sweep.rows;
    problem.n = sweep.columns;
    problem.k = sweep.width;
    problem.left = sweep.change.data();
    problem.left_stride = sweep.width;
    problem.right = sweep.hessian + sweep.first * sweep.columns;
    problem.right_stride = sweep.columns;
    problem.result = gradient;
    problem.result_stride = sweep.columns;
    problem.accumulate = true;
    gemm(problem);
}

}  // namespace

void additive_sweep(const AdditiveCodes& additive, Tensor quantized, Tensor gradient, Tensor hessian, Tensor factors,
                    int beam, std::int64_t block) {
    const BeamSettings search{beam, 1};
    const std::int64_t group = additive.codebooks.dim(2);
    Sweep sweep{quantized.dim(0),
                quantized.dim(1),
                group,
                additive.codebooks.dim(0),
                additive.codebooks.dim(1),
                additive.codebooks.as<float>(),
                additive.scales.as<float>(),
                hessian.as<float>(),
                additive.codes.as<std::uint16_t>(),
                quantized.as<float>()};
    CodebookTables tables;
    sweep.targets.resize(index_of(sweep.rows * group));
    sweep.present.resize(index_of(sweep.rows * sweep.books));
    for (sweep.first = 0; sweep.first < sweep.columns; sweep.first += sweep.width) {
        sweep.width = std::min(block / group * group, sweep.columns - sweep.first);
        sweep.gradient.resize(index_of(sweep.rows * sweep.width));
        sweep.change.assign(index_of(sweep.rows * sweep.width), 0);
        for_chunks(sweep.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                std::copy_n(gradient.as<float>() + row * sweep.columns + sweep.first, sweep.width,
                            sweep.gradient.begin() + row * sweep.width);
            }
        });
        for (std::int64_t column = sweep.first; column < sweep.first + sweep.width; column += group) {
            const double* lower = factors.as<double>() + column / group * 2 * group * group;
            const std::vector<float> codebooks = transformed_codebooks(sweep, lower);
            with_group(group, [&]<int size>() { set_targets<size>(sweep, lower, lower + group * group, column); });
            set_codebook_tables(tables, codebooks.data(), sweep.books, sweep.size, group, sweep.rows, search);
            search_codes(tables, sweep.targets.data(), sweep.present.data(), sweep.rows, search);
            take_codes(sweep, column);
        }
        feed_forward(sweep, gradient.as<float>());
    }
}

void scale_rows(Tensor values, Tensor factors) {
    const std::int64_t columns = values.dim(1);
    for_chunks(values.dim(0), rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const float factor = factors.as<float>()[row];
            float* to = values.as<float>() + row * columns;
#pragma omp simd
            for (std::int64_t i = 0; i < columns; ++i) to[i] *= factor;
        }
    });
}

}  // namespace pvtune::cpu
