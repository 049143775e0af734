// The mean squared error of block-wise tuning: losses[t] = mean over a row of (out - target)^2, d_out = scale (out -
// target). A warp takes a row, 16 bytes a lane at a time where rows are aligned.

#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;
constexpr int rows_per_block = block_threads / warp_size;

/// The squares of `count` differences, whose gradient is stored unless d_out is null.
template <int count, class T>
__device__ inline float piece(T* d_out, const T* out, const T* target, float scale) {
    float difference[count];
    float wanted[count];
    load_values<count>(difference, out);
    load_values<count>(wanted, target);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
        difference[i] -= wanted[i];
        squares = fmaf(difference[i], difference[i], squares);
        difference[i] *= scale;
    }
    if (d_out != nullptr) store_values<count>(d_out, difference);
    return squares;
}

template <int count, class T>
__global__ void __launch_bounds__(block_threads) mse_loss_kernel(float* losses, T* d_out, const T* out, const T* target,
                                                                 std::int64_t rows, std::int64_t width, float scale) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * rows_per_block + threadIdx.x / warp_size;
    if (row >= rows) return;  // whole warps leave
    float squares = 0;
    for (std::int64_t i = static_cast<std::int64_t>(lane) * count; i < width; i += warp_size * count) {
        const std::int64_t at = row * width + i;
        squares += piece<count>(d_out != nullptr ? d_out + at : nullptr, out + at, target + at, scale);
    }
    squares = warp_sum(squares);
    if (lane == 0) losses[row] = squares / static_cast<float>(width);
}

}  // namespace

template <class T>
void mse_loss(float* losses, T* d_out, const T* out, const T* target, std::int64_t rows, std::int64_t width,
              float scale, Stream stream) {
    if (rows == 0) return;
    const auto blocks = static_cast<unsigned>(ceil_divide(rows, std::int64_t{rows_per_block}));
    const auto kernel = width % lanes_of<T> == 0 ? mse_loss_kernel<lanes_of<T>, T> : mse_loss_kernel<1, T>;
    launch(kernel, blocks, block_threads, 0, stream, losses, d_out, out, target, rows, width, scale);
}

template void mse_loss(float*, float*, const float*, const float*, std::int64_t, std::int64_t, float, Stream);
template void mse_loss(float*, bf16*, const bf16*, const bf16*, std::int64_t, std::int64_t, float, Stream);

}  // namespace pvtune::cuda
