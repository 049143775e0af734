// The transform of host/backend/hadamard.h, of 16 rows or columns at a time: element i of all of them lies in one
// vector register, so that every step of the butterflies and of the dense factor is the same for all 16.
#include "host/backend/cpu/hadamard.h"

#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scratch.h"
#include "host/backend/hadamard.h"

#include <algorithm>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t lanes = 16;

/// values [size, lanes] with size a power of two: two levels of butterflies a pass.
void butterflies(float* __restrict values, std::int64_t size) {
    std::int64_t half = 1;
    for (; half * 4 <= size; half *= 4) {
        for (std::int64_t base = 0; base < size; base += 4 * half) {
            for (std::int64_t t = base; t < base + half; ++t) {
                float* a = values + t * lanes;
                float* b = a + half * lanes;
                float* c = b + half * lanes;
                float* d = c + half * lanes;
#pragma omp simd
                for (std::int64_t i = 0; i < lanes; ++i) {
                    const float sum = a[i] + b[i];
                    const float difference = a[i] - b[i];
                    const float other_sum = c[i] + d[i];
                    const float other_difference = c[i] - d[i];
                    a[i] = sum + other_sum;
                    b[i] = difference + other_difference;
                    c[i] = sum - other_sum;
                    d[i] = difference - other_difference;
                }
            }
        }
    }
    if (half == size) return;
    for (std::int64_t t = 0; t < half; ++t) {
        float* a = values + t * lanes;
        float* b = a + half * lanes;
#pragma omp simd
        for (std::int64_t i = 0; i < lanes; ++i) {
            const float sum = a[i] + b[i];
            b[i] = a[i] - b[i];
            a[i] = sum;
        }
    }
}

/// panel [size, lanes]; scratch [order, lanes].
void transform_panel(float* __restrict panel, std::int64_t size, const HadamardFactor& factor,
                     float* __restrict scratch) {
    const std::int64_t order = factor.order;
    const std::int64_t power = size / order;
    for (std::int64_t b = 0; b < order; ++b) butterflies(panel + b * power * lanes, power);
    for (std::int64_t t = 0; t < power; ++t) {
        for (std::int64_t b = 0; b < order; ++b) {
            std::copy_n(panel + (b * power + t) * lanes, lanes, scratch + b * lanes);
        }
        for (std::int64_t b = 0; b < order; ++b) {
            const float* row = factor.matrix.data() + b * order;
            float sum[lanes] = {};
            for (std::int64_t c = 0; c < order; ++c) {
#pragma omp simd
                for (std::int64_t i = 0; i < lanes; ++i) sum[i] += row[c] * scratch[c * lanes + i];
            }
            std::copy_n(sum, lanes, panel + (b * power + t) * lanes);
        }
    }
}

/// Calls load(panel, first, count) and store(panel, first, count) around the transform of `vectors` vectors of a size.
template <class Load, class Store>
void for_panels(std::int64_t vectors, std::int64_t size, const Load& load, const Store& store) {
    const HadamardFactor& factor = hadamard_factor(size);
    for_chunks(vectors, lanes, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        static thread_local Scratch memory;
        auto* panel = memory.get<float>((size + factor.order) * lanes);
        load(panel, first, last - first);
        transform_panel(panel, size, factor, panel + size * lanes);
        store(panel, first, last - first);
    });
}

}  // namespace

void transform_rows(float* values, std::int64_t rows, std::int64_t columns) {
    for_panels(
        rows, columns,
        [&](float* panel, std::int64_t first, std::int64_t count) {
            if (count < lanes) std::fill_n(panel, columns * lanes, 0.0F);
            for (std::int64_t i = 0; i < count; ++i) {
                const float* from = values + (first + i) * columns;
                for (std::int64_t j = 0; j < columns; ++j) panel[j * lanes + i] = from[j];
            }
        },
        [&](const float* panel, std::int64_t first, std::int64_t count) {
            for (std::int64_t i = 0; i < count; ++i) {
                float* to = values + (first + i) * columns;
                for (std::int64_t j = 0; j < columns; ++j) to[j] = panel[j * lanes + i];
            }
        });
}

void transform_columns(float* values, std::int64_t rows, std::int64_t columns) {
    for_panels(
        columns, rows,
        [&](float* panel, std::int64_t first, std::int64_t count) {
            for (std::int64_t i = 0; i < rows; ++i) {
                std::copy_n(values + i * columns + first, count, panel + i * lanes);
                std::fill_n(panel + i * lanes + count, lanes - count, 0.0F);
            }
        },
        [&](const float* panel, std::int64_t first, std::int64_t count) {
            for (std::int64_t i = 0; i < rows; ++i) std::copy_n(panel + i * lanes, count, values + i * columns + first);
        });
}

void hadamard_transform(Tensor values) {
    const std::int64_t columns = values.dim(values.rank - 1);
    transform_rows(values.as<float>(), values.elements() / columns, columns);
}

}  // namespace pvtune::cpu
