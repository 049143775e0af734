// Weights from E8P codes behind Hadamard transforms (LatticeCodes in ops.h), and gradients the same way back.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/e8p_search.h"
#include "host/backend/cpu/hadamard.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scratch.h"

namespace pvtune::cpu {
namespace {

constexpr std::int64_t group = 8;
constexpr std::int64_t rows_per_chunk = 16;

struct Sizes {
    std::int64_t rows, groups, columns, bytes;
    explicit Sizes(const LatticeCodes& lattice)
        : rows(lattice.codes.dim(0)),
          groups(lattice.codes.dim(1)),
          columns(groups * group),
          bytes(lattice.codes.dim(2)) {
        assert(lattice.left.elements() == rows && lattice.right.elements() == columns);
    }
    std::int64_t elements() const { return rows * columns; }
};

/// f32 memory of a whole matrix.
float* matrix_scratch(const Sizes& sizes) {
    static thread_local Scratch memory;
    return memory.get<float>(sizes.elements());
}

/// Calls body(row) for every row, in parallel.
template <class Body>
void for_rows(const Sizes& sizes, const Body& body) {
    for_chunks(sizes.rows, rows_per_chunk, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        for (std::int64_t row = first; row < last; ++row) body(row);
    });
}

/// Calls body(flat index, its point of scale 1) for every group, in parallel by rows.
template <class Body>
void for_points(const LatticeCodes& lattice, const Body& body) {
    const Sizes sizes(lattice);
    const auto* codes = lattice.codes.as<std::uint8_t>();
    for_rows(sizes, [&](std::int64_t row) {
        for (std::int64_t at = row * sizes.groups; at < (row + 1) * sizes.groups; ++at) {
            float point[group];
            decode_group(point, codes + at * sizes.bytes, sizes.bytes);
            body(at, point);
        }
    });
}

/// H X H, with X of this scale.
float* transformed_codes(const LatticeCodes& lattice, float scale) {
    const Sizes sizes(lattice);
    float* values = matrix_scratch(sizes);
    for_points(lattice, [&](std::int64_t at, const float* point) {
#pragma omp simd
        for (std::int64_t i = 0; i < group; ++i) values[at * group + i] = scale * point[i];
    });
    transform_rows(values, sizes.rows, sizes.columns);
    transform_columns(values, sizes.rows, sizes.columns);
    return values;
}

}  // namespace

void dequantize_lattice(Tensor weight, const LatticeCodes& lattice) {
    const Sizes sizes(lattice);
    assert(weight.elements() == sizes.elements());
    const float* left = lattice.left.as<float>();
    const float* right = lattice.right.as<float>();
    const float* values = transformed_codes(lattice, *lattice.scale.as<float>());
    with_float_type(weight.dtype, [&]<class T>() {
        T* out = weight.as<T>();
        for_rows(sizes, [&](std::int64_t row) {
            const std::int64_t first = row * sizes.columns;
            for (std::int64_t j = 0; j < sizes.columns; ++j) {
                out[first + j] = from_float<T>(left[row] * values[first + j] * right[j]);
            }
        });
    });
}

void lattice_code_gradient(Tensor d_weight, const LatticeCodes& lattice) {
    const Sizes sizes(lattice);
    assert(d_weight.elements() == sizes.elements());
    const float* left = lattice.left.as<float>();
    const float* right = lattice.right.as<float>();
    auto* values = d_weight.as<float>();
    for_rows(sizes, [&](std::int64_t row) {
        float* own = values + row * sizes.columns;
        for (std::int64_t j = 0; j < sizes.columns; ++j) own[j] = left[row] * own[j] * right[j];
    });
    transform_rows(values, sizes.rows, sizes.columns);
    transform_columns(values, sizes.rows, sizes.columns);
}

void lattice_target(Tensor target, Tensor scores, Tensor wanted, Tensor weight, const LatticeCodes& lattice) {
    const Sizes sizes(lattice);
    assert(target.elements() == sizes.elements() && wanted.elements() == sizes.elements());
    assert(weight.elements() == sizes.elements() && scores.elements() == sizes.rows * sizes.groups);
    auto* values = target.as<float>();
    const auto* goal = wanted.as<float>();
    const float* left = lattice.left.as<float>();
    const float* right = lattice.right.as<float>();
    with_float_type(weight.dtype, [&]<class T>() {
        const T* now = weight.as<T>();
        for_rows(sizes, [&](std::int64_t row) {
            for (std::int64_t j = 0; j < sizes.columns; ++j) {
                const std::int64_t at = row * sizes.columns + j;
                values[at] = left[row] * (goal[at] - to_float(now[at])) * right[j];
            }
        });
    });
    transform_rows(values, sizes.rows, sizes.columns);
    transform_columns(values, sizes.rows, sizes.columns);
    const float scale = *lattice.scale.as<float>();
    auto* squares = scores.as<float>();
    for_points(lattice, [&](std::int64_t at, const float* point) {
        float* own = values + at * group;
        float sum = 0;
        for (std::int64_t i = 0; i < group; ++i) {
            sum += own[i] * own[i];
            own[i] += scale * point[i];
        }
        squares[at] = sum;
    });
}

void lattice_gradient(Tensor d_scale, Tensor d_left, Tensor d_right, Tensor d_weight, const LatticeCodes& lattice) {
    const Sizes sizes(lattice);
    assert(d_weight.elements() == sizes.elements());
    const float scale = *lattice.scale.as<float>();
    const float* left = lattice.left.as<float>();
    const float* right = lattice.right.as<float>();
    const auto* gradient = d_weight.as<float>();
    // Of scale 1, so that no sum is divided by a scale.
    float* values = transformed_codes(lattice, 1);
    std::vector<double> row_sums(static_cast<std::size_t>(sizes.rows));
    for_rows(sizes, [&](std::int64_t row) {
        float* own = values + row * sizes.columns;
        const float* from = gradient + row * sizes.columns;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t j = 0; j < sizes.columns; ++j) {
            own[j] *= from[j];
            sum += static_cast<double>(own[j]) * static_cast<double>(right[j]);
        }
        row_sums[static_cast<std::size_t>(row)] = sum;
        d_left.as<float>()[row] = static_cast<float>(sum * static_cast<double>(scale));
    });
    double total = 0;
    for (std::int64_t row = 0; row < sizes.rows; ++row) {
        total += row_sums[static_cast<std::size_t>(row)] * static_cast<double>(left[row]);
    }
    *d_scale.as<float>() = static_cast<float>(total);

    constexpr std::int64_t columns_per_chunk = 64;
    for_chunks(sizes.columns, columns_per_chunk, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        double sums[columns_per_chunk] = {};
        for (std::int64_t row = 0; row < sizes.rows; ++row) {
            const float* own = values + row * sizes.columns + first;
            const auto factor = static_cast<double>(left[row]);
#pragma omp simd
            for (std::int64_t j = 0; j < last - first; ++j) sums[j] += factor * static_cast<double>(own[j]);
        }
        for (std::int64_t j = first; j < last; ++j) {
            d_right.as<float>()[j] = static_cast<float>(sums[j - first] * static_cast<double>(scale));
        }
    });
}

}  // namespace pvtune::cpu
