// The gated activation of Llama-like models (Shazeer 2020): out = silu(gate) * up, silu(x) = x s, s = 1 / (1 + e^-x).
// d_up = d_out silu(gate),  d_gate = d_out up s (1 + gate (1 - s)); the backward pass also computes `out` anew, bit by
// bit, for the gradient of the weights behind it.
// A thread takes 16 bytes of each array; the thread at the end of the arrays takes what is left one by one.

#include "cuda/kernels.h"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

template <int count, class T>
__device__ inline void forward_piece(T* out, const T* gate, const T* up) {
    float x[count];
    float factors[count];
    load_values<count>(x, gate);
    load_values<count>(factors, up);
#pragma unroll
    for (int i = 0; i < count; ++i) x[i] = x[i] * sigmoid(x[i]) * factors[i];
    store_values<count>(out, x);
}

template <int count, class T>
__device__ inline void backward_piece(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up) {
    float slopes[count];
    float x[count];
    float factors[count];
    float outs[count];
    load_values<count>(slopes, d_out);
    load_values<count>(x, gate);
    load_values<count>(factors, up);
#pragma unroll
    for (int i = 0; i < count; ++i) {
        const float s = sigmoid(x[i]);
        outs[i] = x[i] * s * factors[i];
        const float slope = slopes[i] * factors[i] * s * fmaf(x[i], 1.0F - s, 1.0F);
        factors[i] = slopes[i] * x[i] * s;
        x[i] = slope;
    }
    store_values<count>(out, outs);
    store_values<count>(d_up, factors);
    store_values<count>(d_gate, x);
}

/// Calls body.operator()<count>(first) for this thread's elements.
template <int count, class Body>
__device__ inline void for_piece(std::int64_t elements, const Body& body) {
    const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * count;
    if (first + count <= elements) {
        body.template operator()<count>(first);
    } else {
        for (std::int64_t i = first; i < elements; ++i) body.template operator()<1>(i);
    }
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    swiglu_forward_kernel(T* out, const T* gate, const T* up, std::int64_t count) {
    for_piece<lanes_of<T>>(count, [&]<int size>(std::int64_t i) { forward_piece<size>(out + i, gate + i, up + i); });
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    swiglu_backward_kernel(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up, std::int64_t count) {
    for_piece<lanes_of<T>>(count, [&]<int size>(std::int64_t i) {
        backward_piece<size>(d_gate + i, d_up + i, out + i, d_out + i, gate + i, up + i);
    });
}

template <class T>
unsigned blocks_for(std::int64_t count) {
    return static_cast<unsigned>(ceil_divide(count, block_threads * lanes_of<T>));
}

}  // namespace

template <class T>
void swiglu_forward(T* out, const T* gate, const T* up, std::int64_t count, Stream stream) {
    if (count == 0) return;
    launch(swiglu_forward_kernel<T>, blocks_for<T>(count), block_threads, 0, stream, out, gate, up, count);
}

template <class T>
void swiglu_backward(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up, std::int64_t count,
                     Stream stream) {
    if (count == 0) return;
    launch(swiglu_backward_kernel<T>, blocks_for<T>(count), block_threads, 0, stream, d_gate, d_up, out, d_out, gate,
           up, count);
}

template void swiglu_forward(float*, const float*, const float*, std::int64_t, Stream);
template void swiglu_forward(bf16*, const bf16*, const bf16*, std::int64_t, Stream);
template void swiglu_backward(float*, float*, float*, const float*, const float*, const float*, std::int64_t, Stream);
template void swiglu_backward(bf16*, bf16*, bf16*, const bf16*, const bf16*, const bf16*, std::int64_t, Stream);

}  // namespace pvtune::cuda
