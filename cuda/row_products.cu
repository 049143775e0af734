// row_products: products[o] = <a[o], b[o]> in f64, a block a row. scale_rows: values[o] *= factors[o]. Both read their
// matrices once.

#include "cuda/kernels.h"
#include "cuda/reduce.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

template <int lanes>
struct Lanes {
    float values[lanes];
    __device__ explicit Lanes(const float* from) {
        if constexpr (lanes == 4) {
            const float4 four = *reinterpret_cast<const float4*>(from);
            values[0] = four.x;
            values[1] = four.y;
            values[2] = four.z;
            values[3] = four.w;
        } else {
            values[0] = *from;
        }
    }
};

template <int lanes>
__global__ void __launch_bounds__(block_threads)
    row_products_kernel(double* products, const float* a, const float* b, std::int64_t columns) {
    __shared__ double partials[block_threads / warp_size];
    const std::int64_t row = blockIdx.x;
    double sum = 0;
    for (std::int64_t i = threadIdx.x * lanes; i < columns; i += block_threads * lanes) {
        const Lanes<lanes> left(a + row * columns + i);
        const Lanes<lanes> right(b + row * columns + i);
#pragma unroll
        for (int j = 0; j < lanes; ++j) {
            sum = fma(static_cast<double>(left.values[j]), static_cast<double>(right.values[j]), sum);
        }
    }
    sum = block_sum(sum, partials);
    if (threadIdx.x == 0) products[row] = sum;
}

template <int lanes>
__global__ void __launch_bounds__(block_threads)
    scale_rows_kernel(float* values, const float* factors, std::int64_t columns) {
    const std::int64_t row = blockIdx.x;
    const float factor = factors[row];
    for (std::int64_t i = threadIdx.x * lanes; i < columns; i += block_threads * lanes) {
        float* const to = values + row * columns + i;
        Lanes<lanes> held(to);
#pragma unroll
        for (int j = 0; j < lanes; ++j) held.values[j] *= factor;
        if constexpr (lanes == 4) {
            *reinterpret_cast<float4*>(to) =
                make_float4(held.values[0], held.values[1], held.values[2], held.values[3]);
        } else {
            *to = held.values[0];
        }
    }
}

}  // namespace

void row_products(double* products, const float* a, const float* b, std::int64_t rows, std::int64_t columns,
                  Stream stream) {
    if (rows == 0) return;
    const auto start = columns % 4 == 0 ? row_products_kernel<4> : row_products_kernel<1>;
    launch(start, static_cast<unsigned>(rows), block_threads, 0, stream, products, a, b, columns);
}

void scale_rows(float* values, const float* factors, std::int64_t rows, std::int64_t columns, Stream stream) {
    if (rows == 0) return;
    const auto start = columns % 4 == 0 ? scale_rows_kernel<4> : scale_rows_kernel<1>;
    launch(start, static_cast<unsigned>(rows), block_threads, 0, stream, values, factors, columns);
}

}  // namespace pvtune::cuda
