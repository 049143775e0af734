// The gated activations of Llama-like models (Shazeer 2020): out = act(gate) * up, act(x) = x s, s = 1 / (1 + e^-z(x)),
// z(x) = x for silu. For gelu = x / 2 (1 + tanh(y)), y = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks, Gimpel 2016), it
// is z = 2 y. d_up = d_out act(gate),  d_gate = d_out up s (1 + gate z' (1 - s)); the backward pass also computes `out`
// anew, bit by bit, for the gradient of the weights behind it.
// A thread takes 16 bytes of each array; the thread at the end of the arrays takes what is left one by one.

#include "cuda/kernels.h"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

struct Silu {
    static __device__ inline float z(float x) { return x; }
    static __device__ inline float slope(float) { return 1.0F; }
};

struct GeluTanh {
    static constexpr float twice_root = 1.5957691216F;  // 2 sqrt(2 / pi)
    static constexpr float cubic = 0.044715F;
    static __device__ inline float z(float x) { return twice_root * fmaf(cubic * x * x, x, x); }
    static __device__ inline float slope(float x) { return twice_root * fmaf(3.0F * cubic * x, x, 1.0F); }
};

__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

template <class Gate, int count, class T>
__device__ inline void forward_piece(T* out, const T* gate, const T* up) {
    float x[count];
    float factors[count];
    load_values<count>(x, gate);
    load_values<count>(factors, up);
#pragma unroll
    for (int i = 0; i < count; ++i) x[i] = x[i] * sigmoid(Gate::z(x[i])) * factors[i];
    store_values<count>(out, x);
}

template <class Gate, int count, class T>
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
        const float s = sigmoid(Gate::z(x[i]));
        outs[i] = x[i] * s * factors[i];
        const float slope = slopes[i] * factors[i] * s * fmaf(x[i] * Gate::slope(x[i]), 1.0F - s, 1.0F);
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

template <class Gate, class T>
__global__ void __launch_bounds__(block_threads)
    gated_forward_kernel(T* out, const T* gate, const T* up, std::int64_t count) {
    for_piece<lanes_of<T>>(count,
                           [&]<int size>(std::int64_t i) { forward_piece<Gate, size>(out + i, gate + i, up + i); });
}

template <class Gate, class T>
__global__ void __launch_bounds__(block_threads)
    gated_backward_kernel(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up, std::int64_t count) {
    for_piece<lanes_of<T>>(count, [&]<int size>(std::int64_t i) {
        backward_piece<Gate, size>(d_gate + i, d_up + i, out + i, d_out + i, gate + i, up + i);
    });
}

template <class T>
unsigned blocks_for(std::int64_t count) {
    return static_cast<unsigned>(ceil_divide(count, block_threads * lanes_of<T>));
}

template <class Gate, class T>
void forward(T* out, const T* gate, const T* up, std::int64_t count, Stream stream) {
    if (count == 0) return;
    launch(gated_forward_kernel<Gate, T>, blocks_for<T>(count), block_threads, 0, stream, out, gate, up, count);
}

template <class Gate, class T>
void backward(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up, std::int64_t count,
              Stream stream) {
    if (count == 0) return;
    launch(gated_backward_kernel<Gate, T>, blocks_for<T>(count), block_threads, 0, stream, d_gate, d_up, out, d_out,
           gate, up, count);
}

}  // namespace

template <class T>
void swiglu_forward(T* out, const T* gate, const T* up, std::int64_t count, Stream stream) {
    forward<Silu>(out, gate, up, count, stream);
}

template <class T>
void swiglu_backward(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up, std::int64_t count,
                     Stream stream) {
    backward<Silu>(d_gate, d_up, out, d_out, gate, up, count, stream);
}

template <class T>
void geglu_forward(T* out, const T* gate, const T* up, std::int64_t count, Stream stream) {
    forward<GeluTanh>(out, gate, up, count, stream);
}

template <class T>
void geglu_backward(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up, std::int64_t count,
                    Stream stream) {
    backward<GeluTanh>(d_gate, d_up, out, d_out, gate, up, count, stream);
}

template void swiglu_forward(float*, const float*, const float*, std::int64_t, Stream);
template void swiglu_forward(bf16*, const bf16*, const bf16*, std::int64_t, Stream);
template void swiglu_backward(float*, float*, float*, const float*, const float*, const float*, std::int64_t, Stream);
template void swiglu_backward(bf16*, bf16*, bf16*, const bf16*, const bf16*, const bf16*, std::int64_t, Stream);
template void geglu_forward(float*, const float*, const float*, std::int64_t, Stream);
template void geglu_forward(bf16*, const bf16*, const bf16*, std::int64_t, Stream);
template void geglu_backward(float*, float*, float*, const float*, const float*, const float*, std::int64_t, Stream);
template void geglu_backward(bf16*, bf16*, bf16*, const bf16*, const bf16*, const bf16*, std::int64_t, Stream);

}  // namespace pvtune::cuda
