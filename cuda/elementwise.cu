// Operations that touch every element once: out = a + b, values *= factor, out += scale * in, out = in converted (to
// the nearest or by chance), out[t] += bias. Arrays of `count` elements or [tokens, width], row-major. All are bound by
// memory: 16 bytes a thread and access (8 of the bf16 side of a conversion, so that neighbouring threads stay
// neighbours on both sides).

#include "cuda/kernels.h"
#include "cuda/random.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {
namespace {

constexpr int threads = 256;

unsigned blocks_for(std::int64_t items) { return static_cast<unsigned>(ceil_divide(items, threads)); }

template <class T>
__global__ void __launch_bounds__(threads) add_kernel(T* out, const T* a, const T* b, std::int64_t count) {
    constexpr int lanes = lanes_of<T>;
    const std::int64_t first = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * lanes;
    if (first + lanes <= count) {
        float left[lanes];
        float right[lanes];
        load_lanes(left, a + first);
        load_lanes(right, b + first);
        for (int i = 0; i < lanes; ++i) left[i] += right[i];
        store_lanes(out + first, left);
    } else {
        for (std::int64_t i = first; i < count; ++i) out[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
    }
}

template <class T>
__global__ void __launch_bounds__(threads) scale_kernel(T* values, float factor, std::int64_t count) {
    constexpr int lanes = lanes_of<T>;
    const std::int64_t first = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * lanes;
    if (first + lanes <= count) {
        float piece[lanes];
        load_lanes(piece, values + first);
        for (int i = 0; i < lanes; ++i) piece[i] *= factor;
        store_lanes(values + first, piece);
    } else {
        for (std::int64_t i = first; i < count; ++i) values[i] = from_float<T>(factor * to_float(values[i]));
    }
}

__global__ void __launch_bounds__(threads)
    add_scaled_kernel(float* out, const float* in, float scale, std::int64_t count) {
    constexpr int lanes = lanes_of<float>;
    const std::int64_t first = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * lanes;
    if (first + lanes <= count) {
        float values[lanes];
        float added[lanes];
        load_lanes(values, out + first);
        load_lanes(added, in + first);
        for (int i = 0; i < lanes; ++i) values[i] = fmaf(scale, added[i], values[i]);
        store_lanes(out + first, values);
    } else {
        for (std::int64_t i = first; i < count; ++i) out[i] = fmaf(scale, in[i], out[i]);
    }
}

constexpr int converted_lanes = 4;

__device__ inline void load_four(float (&values)[converted_lanes], const float* from) { load_lanes(values, from); }
__device__ inline void load_four(float (&values)[converted_lanes], const bf16* from) {
    const uint2 bits = *reinterpret_cast<const uint2*>(from);
    values[0] = __uint_as_float(bits.x << 16);
    values[1] = __uint_as_float(bits.x & 0xffff0000U);
    values[2] = __uint_as_float(bits.y << 16);
    values[3] = __uint_as_float(bits.y & 0xffff0000U);
}

__device__ inline void store_four(float* to, const float (&values)[converted_lanes]) { store_lanes(to, values); }
__device__ inline void store_four(bf16* to, const float (&values)[converted_lanes]) {
    const auto pair = [](float low, float high) {
        return to_bf16(low).bits | (static_cast<std::uint32_t>(to_bf16(high).bits) << 16);
    };
    *reinterpret_cast<uint2*>(to) = make_uint2(pair(values[0], values[1]), pair(values[2], values[3]));
}

template <class To, class From>
__global__ void __launch_bounds__(threads) convert_kernel(To* out, const From* in, std::int64_t count) {
    const std::int64_t first = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * converted_lanes;
    if (first + converted_lanes <= count) {
        float values[converted_lanes];
        load_four(values, in + first);
        store_four(out + first, values);
    } else {
        for (std::int64_t i = first; i < count; ++i) out[i] = from_float<To>(to_float(in[i]));
    }
}

/// Of the 16 bits that go, as many in 2^16 chances carry into those that stay.
__device__ inline std::uint32_t bf16_by_chance(float value, std::uint64_t seed, std::int64_t i) {
    const std::uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7f800000U) == 0x7f800000U) return to_bf16(value).bits;
    return (bits + static_cast<std::uint32_t>(bits_at(seed, static_cast<std::uint64_t>(i)) >> 48)) >> 16;
}

__global__ void __launch_bounds__(threads)
    convert_by_chance_kernel(bf16* out, const float* in, std::uint64_t seed, std::int64_t count) {
    const std::int64_t first = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * converted_lanes;
    if (first + converted_lanes <= count) {
        float values[converted_lanes];
        std::uint32_t rounded[converted_lanes];
        load_four(values, in + first);
        for (int i = 0; i < converted_lanes; ++i) rounded[i] = bf16_by_chance(values[i], seed, first + i);
        *reinterpret_cast<uint2*>(out + first) =
            make_uint2(rounded[0] | (rounded[1] << 16), rounded[2] | (rounded[3] << 16));
    } else {
        for (std::int64_t i = first; i < count; ++i) {
            out[i].bits = static_cast<std::uint16_t>(bf16_by_chance(in[i], seed, i));
        }
    }
}

/// A thread keeps its columns' biases for the rows of its block.
constexpr int rows_of_block = 8;

template <class T, int lanes>
__global__ void __launch_bounds__(threads)
    add_bias_kernel(T* out, const float* bias, std::int64_t tokens, std::int64_t width) {
    const std::int64_t column = (std::int64_t{blockIdx.y} * threads + threadIdx.x) * lanes;
    if (column >= width) return;
    float biases[lanes];
    for (int i = 0; i < lanes; ++i) biases[i] = bias[column + i];
    const std::int64_t first = std::int64_t{blockIdx.x} * rows_of_block;
#pragma unroll
    for (int row = 0; row < rows_of_block; ++row) {
        if (first + row >= tokens) break;
        T* here = out + (first + row) * width + column;
        if constexpr (lanes == 1) {
            *here = from_float<T>(to_float(*here) + biases[0]);
        } else {
            float values[lanes];
            load_lanes(values, here);
            for (int i = 0; i < lanes; ++i) values[i] += biases[i];
            store_lanes(here, values);
        }
    }
}

template <class T, int lanes>
void launch_add_bias(T* out, const float* bias, std::int64_t tokens, std::int64_t width, Stream stream) {
    const dim3 grid(static_cast<unsigned>(ceil_divide(tokens, rows_of_block)), blocks_for(ceil_divide(width, lanes)));
    launch(add_bias_kernel<T, lanes>, grid, dim3(threads), 0, stream, out, bias, tokens, width);
}

}  // namespace

template <class T>
void add(T* out, const T* a, const T* b, std::int64_t count, Stream stream) {
    if (count == 0) return;
    const unsigned blocks = blocks_for(ceil_divide(count, lanes_of<T>));
    launch(add_kernel<T>, dim3(blocks), dim3(threads), 0, stream, out, a, b, count);
}

template <class T>
void scale(T* values, float factor, std::int64_t count, Stream stream) {
    if (count == 0) return;
    const unsigned blocks = blocks_for(ceil_divide(count, lanes_of<T>));
    launch(scale_kernel<T>, dim3(blocks), dim3(threads), 0, stream, values, factor, count);
}

void add_scaled(float* out, const float* in, float scale, std::int64_t count, Stream stream) {
    if (count == 0) return;
    const unsigned blocks = blocks_for(ceil_divide(count, lanes_of<float>));
    launch(add_scaled_kernel, dim3(blocks), dim3(threads), 0, stream, out, in, scale, count);
}

template <class To, class From>
void convert(To* out, const From* in, std::int64_t count, Stream stream) {
    if (count == 0) return;
    const unsigned blocks = blocks_for(ceil_divide(count, converted_lanes));
    launch(convert_kernel<To, From>, dim3(blocks), dim3(threads), 0, stream, out, in, count);
}

void convert_by_chance(bf16* out, const float* in, std::uint64_t seed, std::int64_t count, Stream stream) {
    if (count == 0) return;
    const unsigned blocks = blocks_for(ceil_divide(count, converted_lanes));
    launch(convert_by_chance_kernel, dim3(blocks), dim3(threads), 0, stream, out, in, seed, count);
}

template <class T>
void add_bias(T* out, const float* bias, std::int64_t tokens, std::int64_t width, Stream stream) {
    if (tokens == 0 || width == 0) return;
    if (width % lanes_of<T> == 0) {
        launch_add_bias<T, lanes_of<T>>(out, bias, tokens, width, stream);
    } else {
        launch_add_bias<T, 1>(out, bias, tokens, width, stream);
    }
}

template void add(float*, const float*, const float*, std::int64_t, Stream);
template void add(bf16*, const bf16*, const bf16*, std::int64_t, Stream);
template void scale(float*, float, std::int64_t, Stream);
template void scale(bf16*, float, std::int64_t, Stream);
template void convert(float*, const float*, std::int64_t, Stream);
template void convert(float*, const bf16*, std::int64_t, Stream);
template void convert(bf16*, const float*, std::int64_t, Stream);
template void convert(bf16*, const bf16*, std::int64_t, Stream);
template void add_bias(float*, const float*, std::int64_t, std::int64_t, Stream);
template void add_bias(bf16*, const float*, std::int64_t, std::int64_t, Stream);

}  // namespace pvtune::cuda
