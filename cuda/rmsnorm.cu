// Root-mean-square norm of rows (Zhang & Sennrich 2019): out = in * r * weight, r = 1 / sqrt(mean(in^2) + epsilon).
// With n = in * r and g = d_out * weight:  d_in += r (g - n mean(g n)),  d_weight += sum over tokens of d_out * n.
//
// A row is read once and stays in registers, 16 bytes a piece: a warp holds a narrow row, a block a wider one. The
// gradient of the weight is summed over a strip of tokens in the registers of the threads that own the columns, then
// over the strips by column_sum.

#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace pvtune::cuda {

namespace {

constexpr int narrow_rows = 8;  ///< rows a block has under way where each has a warp
constexpr int narrow_threads = narrow_rows * warp_size;
constexpr int forward_threads = 1024;  ///< at most, of a block that has one row
constexpr int backward_threads = 512;  ///< likewise; a thread needs more registers
constexpr int strips = 528;            ///< of tokens: four blocks for each of an H100's 132 multiprocessors

/// Pieces of `count` elements that a thread holds of its row.
template <int count>
inline constexpr int pieces_of = count == 1 ? 8 : 4;

/// The threads that share a row: a warp of a block of narrow_rows (warp_rows), or the whole block.
template <bool warp_rows>
struct RowThreads {
    int index = static_cast<int>(warp_rows ? threadIdx.x % warp_size : threadIdx.x);
    int count = warp_rows ? warp_size : static_cast<int>(blockDim.x);
    int row = warp_rows ? static_cast<int>(threadIdx.x) / warp_size : 0;
    int rows = warp_rows ? narrow_rows : 1;

    __device__ float sum(float value, float* partials) const {
        return warp_rows ? warp_sum(value) : block_sum(value, partials);
    }
};

template <class T, int count, bool warp_rows>
__global__ void __launch_bounds__(warp_rows ? narrow_threads : forward_threads, 1)
    rmsnorm_forward_kernel(T* out, float* inverse_rms, const T* in, const float* weight, std::int64_t tokens, int width,
                           float epsilon) {
    constexpr int pieces = pieces_of<count>;
    __shared__ float partials[warp_size];
    const RowThreads<warp_rows> threads;
    const std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * threads.rows + threads.row;
    if (warp_rows && token >= tokens) return;

    Packed<T, count> held[pieces];
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        const int column = (i * threads.count + threads.index) * count;
        if (column < width) held[i] = load_packed<count>(in + token * width + column);
    }
    float squares = 0;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        if ((i * threads.count + threads.index) * count >= width) continue;
        float values[count];
        unpack(values, held[i]);
#pragma unroll
        for (int j = 0; j < count; ++j) squares = fmaf(values[j], values[j], squares);
    }
    squares = threads.sum(squares, partials);
    const float inverse = 1.0F / sqrtf(squares / static_cast<float>(width) + epsilon);
    if (threads.index == 0) inverse_rms[token] = inverse;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        const int column = (i * threads.count + threads.index) * count;
        if (column >= width) continue;
        float values[count];
        float gains[count];
        unpack(values, held[i]);
        load_values<count>(gains, weight + column);
#pragma unroll
        for (int j = 0; j < count; ++j) values[j] *= inverse * gains[j];
        store_values<count>(out + token * width + column, values);
    }
}

/// One block a strip of tokens. partials [strips, width] or null.
template <class T, int count, bool warp_rows>
__global__ void __launch_bounds__(warp_rows ? narrow_threads : backward_threads)
    rmsnorm_backward_kernel(T* d_in, float* partials, const T* d_out, const T* in, const float* weight,
                            const float* inverse_rms, std::int64_t tokens, int width) {
    constexpr int pieces = pieces_of<count>;
    constexpr int narrow_width = warp_size * pieces * count;
    __shared__ float warp_partials[warp_size];
    alignas(16) __shared__ float row_sums[warp_rows ? narrow_rows : 1][warp_rows ? narrow_width : 1];
    const RowThreads<warp_rows> threads;
    const std::int64_t begin = tokens * blockIdx.x / gridDim.x;
    const std::int64_t end = tokens * (blockIdx.x + 1) / gridDim.x;

    float d_weight[pieces][count] = {};
    for (std::int64_t token = begin + threads.row; token < end; token += threads.rows) {
        const std::int64_t row = token * width;
        Packed<T, count> inputs[pieces];
        Packed<T, count> slopes[pieces];
        Packed<T, count> before[pieces];
#pragma unroll
        for (int i = 0; i < pieces; ++i) {
            const int column = (i * threads.count + threads.index) * count;
            if (column >= width) continue;
            inputs[i] = load_packed<count>(in + row + column);
            slopes[i] = load_packed<count>(d_out + row + column);
            before[i] = load_packed<count>(d_in + row + column);
        }
        const float inverse = inverse_rms[token];
        float projection = 0;
#pragma unroll
        for (int i = 0; i < pieces; ++i) {
            const int column = (i * threads.count + threads.index) * count;
            if (column >= width) continue;
            float x[count];
            float slope[count];
            float gains[count];
            unpack(x, inputs[i]);
            unpack(slope, slopes[i]);
            load_values<count>(gains, weight + column);
#pragma unroll
            for (int j = 0; j < count; ++j) {
                const float product = slope[j] * x[j] * inverse;
                projection = fmaf(product, gains[j], projection);
                d_weight[i][j] += product;
            }
        }
        const float mean = threads.sum(projection, warp_partials) / static_cast<float>(width);
#pragma unroll
        for (int i = 0; i < pieces; ++i) {
            const int column = (i * threads.count + threads.index) * count;
            if (column >= width) continue;
            float x[count];
            float slope[count];
            float gains[count];
            float values[count];
            unpack(x, inputs[i]);
            unpack(slope, slopes[i]);
            unpack(values, before[i]);
            load_values<count>(gains, weight + column);
#pragma unroll
            for (int j = 0; j < count; ++j) {
                values[j] = fmaf(inverse, slope[j] * gains[j] - x[j] * inverse * mean, values[j]);
            }
            store_values<count>(d_in + row + column, values);
        }
    }
    if (partials == nullptr) return;

    float* const sums = partials + static_cast<std::int64_t>(blockIdx.x) * width;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        const int column = (i * threads.count + threads.index) * count;
        if (column < width)
            store_values<count>(warp_rows ? &row_sums[threads.row][column] : sums + column, d_weight[i]);
    }
    if constexpr (warp_rows) {
        __syncthreads();
        for (int column = static_cast<int>(threadIdx.x); column < width; column += narrow_threads) {
            float sum = 0;
            for (int row = 0; row < narrow_rows; ++row) sum += row_sums[row][column];
            sums[column] = sum;
        }
    }
}

/// Calls body.operator()<count, warp_rows>(threads a row) with the layout of rows of this width.
template <class T, class Body>
void with_layout(std::int64_t width, int most_threads, const Body& body) {
    const auto choose = [&]<int count>() {
        const std::int64_t threads = ceil_divide(ceil_divide(width, count * pieces_of<count>), warp_size) * warp_size;
        if (threads > most_threads) {
            throw std::invalid_argument("rmsnorm: rows of " + std::to_string(width) + " elements are too wide");
        }
        if (threads == warp_size) {
            body.template operator()<count, true>(warp_size);
        } else {
            body.template operator()<count, false>(static_cast<unsigned>(threads));
        }
    };
    if (width % lanes_of<T> == 0) {
        choose.template operator()<lanes_of<T>>();
    } else {
        choose.template operator()<1>();
    }
}

/// Of as many tokens at least as a block has under way.
std::int64_t strips_of(std::int64_t tokens, std::int64_t rows) {
    return std::min<std::int64_t>(ceil_divide(tokens, rows), strips);
}

}  // namespace

template <class T>
void rmsnorm_forward(T* out, float* inverse_rms, const T* in, const float* weight, std::int64_t tokens,
                     std::int64_t width, float epsilon, Stream stream) {
    if (tokens == 0 || width == 0) return;
    with_layout<T>(width, forward_threads, [&]<int count, bool warp_rows>(unsigned threads) {
        const std::int64_t rows = warp_rows ? narrow_rows : 1;
        launch(rmsnorm_forward_kernel<T, count, warp_rows>, static_cast<unsigned>(ceil_divide(tokens, rows)),
               static_cast<unsigned>(rows) * threads, 0, stream, out, inverse_rms, in, weight, tokens, width, epsilon);
    });
}

std::size_t rmsnorm_backward_workspace(std::int64_t tokens, std::int64_t width) {
    const std::int64_t parts = strips_of(tokens, 1);
    return static_cast<std::size_t>(parts * width) * sizeof(float) + column_sum_workspace(parts, width);
}

template <class T>
void rmsnorm_backward(T* d_in, float* d_weight, const T* d_out, const T* in, const float* weight,
                      const float* inverse_rms, std::int64_t tokens, std::int64_t width, void* workspace,
                      Stream stream) {
    if (tokens == 0 || width == 0) return;
    std::int64_t parts = 0;
    float* const partials = d_weight == nullptr ? nullptr : static_cast<float*>(workspace);
    with_layout<T>(width, backward_threads, [&]<int count, bool warp_rows>(unsigned threads) {
        constexpr unsigned rows = warp_rows ? narrow_rows : 1;
        parts = strips_of(tokens, rows);
        launch(rmsnorm_backward_kernel<T, count, warp_rows>, static_cast<unsigned>(parts), rows * threads, 0, stream,
               d_in, partials, d_out, in, weight, inverse_rms, tokens, width);
    });
    if (d_weight != nullptr) column_sum(d_weight, partials, parts, width, partials + parts * width, stream);
}

template void rmsnorm_forward(float*, float*, const float*, const float*, std::int64_t, std::int64_t, float, Stream);
template void rmsnorm_forward(bf16*, float*, const bf16*, const float*, std::int64_t, std::int64_t, float, Stream);
template void rmsnorm_backward(float*, float*, const float*, const float*, const float*, const float*, std::int64_t,
                               std::int64_t, void*, Stream);
template void rmsnorm_backward(bf16*, float*, const bf16*, const bf16*, const float*, const float*, std::int64_t,
                               std::int64_t, void*, Stream);

}  // namespace pvtune::cuda
