// Least-squares codebooks. With a_g the 0/1 row that marks the codewords of point g, the codewords C [books * size,
// group] of least error solve (sum_g w_g a_g^T a_g) C = sum_g w_g a_g^T x_g. The matrix on the left holds the weights
// of each codeword on its diagonal and those of each pair of codewords elsewhere; it is singular (a constant can move
// from one codebook to another), which conjugate gradients from the present codebooks leave alone.
#include "host/quant/codebook_fit.h"

#include "host/backend/cpu/chunks.h"
#include "host/common/index_of.h"

#include <cmath>
#include <numeric>

namespace pvtune {
namespace {

using cpu::chunk_count;
using cpu::for_chunks;

constexpr std::int64_t most_dense_codewords = 2048;  // 32 MiB of co-occurrences

/// Points a chunk, for sums with `elements` numbers a chunk: few chunks where these are many.
std::int64_t points_per_chunk(std::int64_t count, std::int64_t elements) {
    constexpr std::int64_t elements_in_all = std::int64_t{1} << 19;
    return std::max<std::int64_t>(1, chunk_count(count, std::clamp<std::int64_t>(elements_in_all / elements, 2, 16)));
}

/// body(partial, begin, end) adds into `partial` [elements], one a chunk; the result is the sum over the chunks.
template <class Body>
std::vector<double> sum_over_points(std::int64_t count, std::int64_t elements, const Body& body) {
    const std::int64_t chunk = points_per_chunk(count, elements);
    const std::int64_t chunks = std::max<std::int64_t>(1, chunk_count(count, chunk));
    std::vector<double> partials(index_of(chunks * elements));
    for_chunks(count, chunk, [&](std::int64_t index, std::int64_t begin, std::int64_t end) {
        body(partials.data() + index * elements, begin, end);
    });
    for_chunks(elements, 4096, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t index = 1; index < chunks; ++index) {
            const double* partial = partials.data() + index * elements;
            for (std::int64_t i = begin; i < end; ++i) partials[index_of(i)] += partial[i];
        }
    });
    partials.resize(index_of(elements));
    return partials;
}

/// What is left of point g beside the codewords of all codebooks but `skipped` (-1: of all).
template <int group>
void rest_of(float* rest, const WeightedPoints& points, const Codebooks& codebooks, const std::uint16_t* code,
             std::int64_t g, std::int64_t skipped) {
    for (int i = 0; i < group; ++i) rest[i] = points.points[index_of(g * group + i)];
    for (std::int64_t m = 0; m < codebooks.books; ++m) {
        if (m == skipped) continue;
        const float* codeword = codebooks.values.data() + (m * codebooks.size + code[m]) * group;
        for (int i = 0; i < group; ++i) rest[i] -= codeword[i];
    }
}

/// Codebook m becomes the weighted means of what the other codebooks leave.
template <int group>
void fit_means(const WeightedPoints& points, const Codebooks& codebooks, std::span<const std::uint16_t> codes,
               std::int64_t m) {
    constexpr std::int64_t width = group + 1;  // the sums, then the weight
    const std::vector<double> sums =
        sum_over_points(points.count(), codebooks.size * width, [&](double* sum, std::int64_t begin, std::int64_t end) {
            for (std::int64_t g = begin; g < end; ++g) {
                const std::uint16_t* code = codes.data() + g * codebooks.books;
                float rest[group];
                rest_of<group>(rest, points, codebooks, code, g, m);
                const auto weight = static_cast<double>(points.weights[index_of(g)]);
                double* own = sum + code[m] * width;
                for (int i = 0; i < group; ++i) own[i] += weight * static_cast<double>(rest[i]);
                own[group] += weight;
            }
        });
    for (std::int64_t k = 0; k < codebooks.size; ++k) {
        const double* own = sums.data() + k * width;
        if (!(own[group] > 0)) continue;
        float* codeword = codebooks.values.data() + (m * codebooks.size + k) * group;
        for (int i = 0; i < group; ++i) codeword[i] = static_cast<float>(own[i] / own[group]);
    }
}

/// out = matrix x [unknowns, group] columns; matrix [unknowns, unknowns] row-major.
template <int group>
void multiply(const std::vector<double>& matrix, const std::vector<double>& in, std::vector<double>& out,
              std::int64_t unknowns) {
    constexpr std::int64_t tile = 4;  // rows at a time: each entry of `in` is read once for all of them
    for_chunks(unknowns, 64, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; row += tile) {
            const std::int64_t rows = std::min(tile, end - row);
            double sums[tile][group] = {};
            const double* entries[tile];
            for (std::int64_t r = 0; r < tile; ++r) {
                entries[r] = matrix.data() + (row + std::min(r, rows - 1)) * unknowns;
            }
            for (std::int64_t column = 0; column < unknowns; ++column) {
                const double* value = in.data() + column * group;
                for (std::int64_t r = 0; r < tile; ++r) {
#pragma omp simd
                    for (int i = 0; i < group; ++i) sums[r][i] += entries[r][column] * value[i];
                }
            }
            for (std::int64_t r = 0; r < rows; ++r) std::copy_n(sums[r], group, out.begin() + (row + r) * group);
        }
    });
}

/// Conjugate gradients with the diagonal as preconditioner, for `group` right-hand sides at once.
template <int group>
void conjugate_gradients(const std::vector<double>& matrix, std::vector<double>& solution,
                         const std::vector<double>& right, std::int64_t unknowns) {
    constexpr int most_iterations = 60;
    constexpr double tolerance = 1e-6;  // of the first residual's norm; codebooks are f32
    const std::int64_t elements = unknowns * group;
    std::vector<double> inverse_diagonal(index_of(unknowns));
    for (std::int64_t k = 0; k < unknowns; ++k) {
        const double diagonal = matrix[index_of(k * unknowns + k)];
        inverse_diagonal[index_of(k)] = diagonal > 0 ? 1 / diagonal : 0;
    }
    std::vector<double> product(index_of(elements));
    std::vector<double> residual(right);
    multiply<group>(matrix, solution, product, unknowns);
    for (std::int64_t i = 0; i < elements; ++i) residual[index_of(i)] -= product[index_of(i)];
    std::vector<double> direction(index_of(elements));
    double old_norms[group] = {};
    double first_norms[group] = {};
    for (int iteration = 0; iteration < most_iterations; ++iteration) {
        double norms[group] = {};  // <residual, preconditioned residual>, a right-hand side each
        for (std::int64_t k = 0; k < unknowns; ++k) {
            for (int i = 0; i < group; ++i) {
                const double value = residual[index_of(k * group + i)];
                norms[i] += value * value * inverse_diagonal[index_of(k)];
            }
        }
        if (iteration == 0) std::copy_n(norms, group, first_norms);
        bool done = true;
        double betas[group];
        for (int i = 0; i < group; ++i) {
            done &= norms[i] <= tolerance * tolerance * first_norms[i];
            betas[i] = old_norms[i] > 0 ? norms[i] / old_norms[i] : 0;
            old_norms[i] = norms[i];
        }
        if (done) return;
        for (std::int64_t k = 0; k < unknowns; ++k) {
            for (int i = 0; i < group; ++i) {
                const std::size_t at = index_of(k * group + i);
                direction[at] = residual[at] * inverse_diagonal[index_of(k)] + betas[i] * direction[at];
            }
        }
        multiply<group>(matrix, direction, product, unknowns);
        double curvatures[group] = {};
        for (std::int64_t k = 0; k < unknowns; ++k) {
            for (int i = 0; i < group; ++i) {
                curvatures[i] += direction[index_of(k * group + i)] * product[index_of(k * group + i)];
            }
        }
        double steps[group];
        for (int i = 0; i < group; ++i) steps[i] = curvatures[i] > 0 ? norms[i] / curvatures[i] : 0;
        for (std::int64_t k = 0; k < unknowns; ++k) {
            for (int i = 0; i < group; ++i) {
                const std::size_t at = index_of(k * group + i);
                solution[at] += steps[i] * direction[at];
                residual[at] -= steps[i] * product[at];
            }
        }
    }
}

template <int group>
void fit_dense(const WeightedPoints& points, const Codebooks& codebooks, std::span<const std::uint16_t> codes) {
    const std::int64_t books = codebooks.books;
    const std::int64_t size = codebooks.size;
    const std::int64_t unknowns = books * size;
    const std::int64_t elements = unknowns * group;
    const auto first_of = [&](std::int64_t m) { return m * size; };
    const std::vector<double> right =
        sum_over_points(points.count(), elements, [&](double* sum, std::int64_t begin, std::int64_t end) {
            for (std::int64_t g = begin; g < end; ++g) {
                const auto weight = static_cast<double>(points.weights[index_of(g)]);
                const float* point = points.points.data() + g * group;
                for (std::int64_t m = 0; m < books; ++m) {
                    double* own = sum + (first_of(m) + codes[index_of(g * books + m)]) * group;
                    for (int i = 0; i < group; ++i) own[i] += weight * static_cast<double>(point[i]);
                }
            }
        });
    // The upper triangle; the lower one is copied.
    std::vector<double> matrix =
        sum_over_points(points.count(), unknowns * unknowns, [&](double* sum, std::int64_t begin, std::int64_t end) {
            for (std::int64_t g = begin; g < end; ++g) {
                const auto weight = static_cast<double>(points.weights[index_of(g)]);
                const std::uint16_t* code = codes.data() + g * books;
                for (std::int64_t m = 0; m < books; ++m) {
                    double* row = sum + (first_of(m) + code[m]) * unknowns;
                    for (std::int64_t n = m; n < books; ++n) row[first_of(n) + code[n]] += weight;
                }
            }
        });
    for (std::int64_t row = 0; row < unknowns; ++row) {
        for (std::int64_t column = row + 1; column < unknowns; ++column) {
            matrix[index_of(column * unknowns + row)] = matrix[index_of(row * unknowns + column)];
        }
    }
    std::vector<double> solution(codebooks.values.begin(), codebooks.values.end());
    conjugate_gradients<group>(matrix, solution, right, unknowns);
    std::transform(solution.begin(), solution.end(), codebooks.values.begin(),
                   [](double value) { return static_cast<float>(value); });
}

/// Weighted squared error of each point.
template <int group>
std::vector<float> point_errors(const WeightedPoints& points, const Codebooks& codebooks,
                                std::span<const std::uint16_t> codes) {
    std::vector<float> errors(points.weights.size());
    for_chunks(points.count(), 4096, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t g = begin; g < end; ++g) {
            float rest[group];
            rest_of<group>(rest, points, codebooks, codes.data() + g * codebooks.books, g, -1);
            float sum = 0;
            for (int i = 0; i < group; ++i) sum += rest[i] * rest[i];
            errors[index_of(g)] = points.weights[index_of(g)] * sum;
        }
    });
    return errors;
}

}  // namespace

void fit_codebooks(const WeightedPoints& points, const Codebooks& codebooks, std::span<const std::uint16_t> codes) {
    with_group(points.group, [&]<int group>() {
        const std::int64_t books = codebooks.books;
        if (books > 1 && books * codebooks.size <= most_dense_codewords) {
            return fit_dense<group>(points, codebooks, codes);
        }
        const std::int64_t rounds = books == 1 ? 1 : 2;
        for (std::int64_t step = 0; step < rounds * books; ++step) {
            fit_means<group>(points, codebooks, codes, step % books);
        }
    });
}

std::int64_t reseed_unused(const WeightedPoints& points, const Codebooks& codebooks, std::span<std::uint16_t> codes) {
    const std::int64_t books = codebooks.books;
    std::vector<std::uint8_t> used(index_of(books * codebooks.size));
    for (std::int64_t at = 0; at < points.count() * books; ++at) {
        used[index_of(at % books * codebooks.size + codes[index_of(at)])] = 1;
    }
    const std::int64_t unused = std::count(used.begin(), used.end(), 0);
    if (unused == 0) return 0;
    with_group(points.group, [&]<int group>() {
        const std::vector<float> errors = point_errors<group>(points, codebooks, codes);
        std::vector<std::int64_t> order(errors.size());
        std::iota(order.begin(), order.end(), 0);
        const std::int64_t taken = std::min(unused, points.count());
        std::partial_sort(order.begin(), order.begin() + taken, order.end(), [&](std::int64_t a, std::int64_t b) {
            return errors[index_of(a)] != errors[index_of(b)] ? errors[index_of(a)] > errors[index_of(b)] : a < b;
        });
        std::int64_t next = 0;
        for (std::int64_t k = 0; k < books * codebooks.size && next < taken; ++k) {
            if (used[index_of(k)]) continue;
            const std::int64_t g = order[index_of(next++)];
            if (!(errors[index_of(g)] > 0)) break;
            std::uint16_t* code = codes.data() + g * books;
            float rest[group];
            rest_of<group>(rest, points, codebooks, code, g, k / codebooks.size);
            std::copy_n(rest, group, codebooks.values.begin() + k * group);
            code[k / codebooks.size] = static_cast<std::uint16_t>(k % codebooks.size);
        }
    });
    return unused;
}

}  // namespace pvtune
