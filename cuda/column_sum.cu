// d_bias[j] += sum over t of d_out[t, j]: a block sums a strip of rows over 32 pieces of 16 bytes, its warps row by
// row; the strips' sums are rows of the workspace, which the same kernel adds up. Few rows need one stage only.

#include "cuda/kernels.h"
#include "cuda/vector.cuh"

#include <algorithm>

namespace pvtune::cuda {

namespace {

constexpr int warps = 8;
constexpr int block_threads = warps * warp_size;
constexpr std::int64_t one_stage_rows = 528;  ///< up to here one column a thread is fast enough
constexpr std::int64_t strip_rows = 64;
constexpr std::int64_t most_strips = 256;

std::int64_t strips_of(std::int64_t tokens) {
    return tokens <= one_stage_rows ? 0 : std::min(ceil_divide(tokens, strip_rows), most_strips);
}

/// sums[strip, j] = (add ? sums[strip, j] : 0) + sum over the rows of the strip; blockIdx.y counts strips.
template <class T, int count>
__global__ void __launch_bounds__(block_threads)
    column_sum_kernel(float* sums, const T* in, std::int64_t rows, std::int64_t width, bool add) {
    constexpr int under_way = count == 1 ? 16 : 8;
    constexpr int tile = warp_size * count;
    alignas(16) __shared__ float warp_sums[warps][tile];
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.x) * tile;
    const std::int64_t column = first_column + lane * count;
    const std::int64_t begin = rows * blockIdx.y / gridDim.y;
    const std::int64_t end = column < width ? rows * (blockIdx.y + 1) / gridDim.y : begin;

    float mine[count] = {};
    for (std::int64_t row = begin + warp; row < end; row += warps * under_way) {
        Packed<T, count> pieces[under_way];
#pragma unroll
        for (int i = 0; i < under_way; ++i) {
            if (row + i * warps < end) pieces[i] = load_packed<count>(in + (row + i * warps) * width + column);
        }
#pragma unroll
        for (int i = 0; i < under_way; ++i) {
            if (row + i * warps >= end) continue;
            float values[count];
            unpack(values, pieces[i]);
#pragma unroll
            for (int j = 0; j < count; ++j) mine[j] += values[j];
        }
    }
    store_values<count>(&warp_sums[warp][lane * count], mine);
    __syncthreads();
    const int thread = static_cast<int>(threadIdx.x);
    if (thread >= tile || first_column + thread >= width) return;
    float sum = 0;
    for (int i = 0; i < warps; ++i) sum += warp_sums[i][thread];
    float* const to = sums + blockIdx.y * width + first_column + thread;
    *to = add ? *to + sum : sum;
}

template <int count, class T>
void sum_strips(float* sums, const T* in, std::int64_t rows, std::int64_t width, std::int64_t strips, bool add,
                Stream stream) {
    const dim3 grid(static_cast<unsigned>(ceil_divide(width, warp_size * count)), static_cast<unsigned>(strips));
    launch(column_sum_kernel<T, count>, grid, block_threads, 0, stream, sums, in, rows, width, add);
}

}  // namespace

std::size_t column_sum_workspace(std::int64_t tokens, std::int64_t width) {
    return static_cast<std::size_t>(strips_of(tokens) * width) * sizeof(float);
}

template <class T>
void column_sum(float* d_bias, const T* d_out, std::int64_t tokens, std::int64_t width, void* workspace,
                Stream stream) {
    if (tokens == 0 || width == 0) return;
    const std::int64_t strips = strips_of(tokens);
    if (strips == 0) {
        sum_strips<1>(d_bias, d_out, tokens, width, 1, true, stream);
        return;
    }
    auto* const sums = static_cast<float*>(workspace);
    if (width % lanes_of<T> == 0) {
        sum_strips<lanes_of<T>>(sums, d_out, tokens, width, strips, false, stream);
    } else {
        sum_strips<1>(sums, d_out, tokens, width, strips, false, stream);
    }
    sum_strips<1>(d_bias, sums, strips, width, 1, true, stream);
}

template void column_sum(float*, const float*, std::int64_t, std::int64_t, void*, Stream);
template void column_sum(float*, const bf16*, std::int64_t, std::int64_t, void*, Stream);

}  // namespace pvtune::cuda
