// The transform of host/backend/hadamard.h of every row, in place: M (x) S with Sylvester's matrix S of size 2^a and a
// dense symmetric factor M [order, order] that carries the scale. A block a row: the row lies in shared memory (padded
// by a word every 32, so that strides of powers of two spread over the banks), three levels of butterflies in registers
// a pass, then M with its sums in registers. Bound by one read and one write of the rows.

#include "cuda/device.cuh"
#include "cuda/device_limits.h"
#include "cuda/hadamard_sizes.h"
#include "cuda/kernels.h"

#include <stdexcept>
#include <string>

namespace pvtune::cuda {

namespace {

/// One level: pairs of distance `half`. values [2^levels] of the thread.
template <int levels>
__device__ inline void butterflies(float (&values)[1 << levels]) {
#pragma unroll
    for (int half = 1; half < 1 << levels; half *= 2) {
#pragma unroll
        for (int i = 0; i < 1 << levels; ++i) {
            if ((i & half) != 0) continue;
            const float sum = values[i] + values[i + half];
            values[i + half] = values[i] - values[i + half];
            values[i] = sum;
        }
    }
}

/// `levels` levels at once over the whole row, the first with pairs of distance `stride`. Chunks of a power of two that
/// both divide the row follow each other, so that no butterfly crosses one.
template <int levels>
__device__ inline void pass(float* row, int size, int stride) {
    constexpr int count = 1 << levels;
    for (int i = static_cast<int>(threadIdx.x); i < size / count; i += static_cast<int>(blockDim.x)) {
        const int base = i / stride * stride * count + i % stride;
        float values[count];
#pragma unroll
        for (int k = 0; k < count; ++k) values[k] = row[padded(base + k * stride)];
        butterflies<levels>(values);
#pragma unroll
        for (int k = 0; k < count; ++k) row[padded(base + k * stride)] = values[k];
    }
    __syncthreads();
}

/// items: elements a thread, at least size / threads.
template <int items>
__global__ void __launch_bounds__(hadamard_threads)
    hadamard_kernel(float* rows, int size, const float* factor, int order) {
    float* row = dynamic_shared<float>();
    float* const own = rows + static_cast<std::int64_t>(blockIdx.x) * size;
    const int threads = static_cast<int>(blockDim.x);
    for (int i = static_cast<int>(threadIdx.x); i < size; i += threads) row[padded(i)] = own[i];
    __syncthreads();
    const int power = size / order;
    int stride = 1;
    for (; stride * 8 <= power; stride *= 8) pass<3>(row, size, stride);
    if (stride * 4 == power) pass<2>(row, size, stride);
    if (stride * 2 == power) pass<1>(row, size, stride);

    float sums[items];
#pragma unroll
    for (int k = 0; k < items; ++k) {
        const int i = static_cast<int>(threadIdx.x) + k * threads;
        sums[k] = 0;
        if (i >= size) continue;
        const float* coefficients = factor + i / power * order;
        for (int c = 0; c < order; ++c) sums[k] = fmaf(coefficients[c], row[padded(c * power + i % power)], sums[k]);
    }
#pragma unroll
    for (int k = 0; k < items; ++k) {
        const int i = static_cast<int>(threadIdx.x) + k * threads;
        if (i < size) own[i] = sums[k];
    }
}

}  // namespace

void hadamard_transform(float* values, std::int64_t rows, std::int64_t size, const float* factor, std::int64_t order,
                        Stream stream) {
    const auto shared = static_cast<std::size_t>(padded(static_cast<int>(size))) * sizeof(float);
    if (size < 1 || order < 1 || size % order != 0 || ((size / order) & (size / order - 1)) != 0 ||
        size > longest_hadamard_row(static_cast<std::size_t>(most_shared_bytes()))) {
        throw std::invalid_argument("no Hadamard transform on this device of size " + std::to_string(size) +
                                    " with a factor of order " + std::to_string(order));
    }
    if (rows == 0) return;
    const auto threads = static_cast<unsigned>(std::min<std::int64_t>(hadamard_threads, ceil_divide(size, 256) * 32));
    const auto grid = static_cast<unsigned>(rows);
    const auto run = [&](auto kernel) {
        launch(kernel, grid, threads, shared, stream, values, static_cast<int>(size), factor, static_cast<int>(order));
    };
    const std::int64_t items = ceil_divide(size, threads);
    if (items <= 8) return run(hadamard_kernel<8>);
    if (items <= 16) return run(hadamard_kernel<16>);
    run(hadamard_kernel<hadamard_items>);
}

}  // namespace pvtune::cuda
