// Bounded logits of Gemma 2: y = cap tanh(x / cap), dx = dy (1 - (y / cap)^2). Bound by memory: 16 bytes a thread and
// access (8 of bf16 gradients, so that a thread's gradients belong to its values).

#include "cuda/kernels.h"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int threads = 256;
constexpr int lanes = lanes_of<float>;

unsigned blocks_for(std::int64_t count) { return static_cast<unsigned>(ceil_divide(count, threads * lanes)); }

__device__ inline std::int64_t first_element() { return (std::int64_t{blockIdx.x} * threads + threadIdx.x) * lanes; }

__global__ void __launch_bounds__(threads) soft_cap_forward_kernel(float* values, float cap, std::int64_t count) {
    const std::int64_t first = first_element();
    if (first + lanes <= count) {
        float piece[lanes];
        load_lanes(piece, values + first);
        for (int i = 0; i < lanes; ++i) piece[i] = cap * tanhf(piece[i] / cap);
        store_lanes(values + first, piece);
    } else {
        for (std::int64_t i = first; i < count; ++i) values[i] = cap * tanhf(values[i] / cap);
    }
}

template <class T>
__global__ void __launch_bounds__(threads)
    soft_cap_backward_kernel(T* d_values, const float* values, float cap, std::int64_t count) {
    const std::int64_t first = first_element();
    const std::int64_t end = min(first + lanes, count);
    for (std::int64_t i = first; i < end; ++i) {
        const float share = values[i] / cap;
        d_values[i] = from_float<T>(to_float(d_values[i]) * fmaf(-share, share, 1.0F));
    }
}

}  // namespace

void soft_cap_forward(float* values, float cap, std::int64_t count, Stream stream) {
    if (count == 0) return;
    launch(soft_cap_forward_kernel, blocks_for(count), threads, 0, stream, values, cap, count);
}

template <class T>
void soft_cap_backward(T* d_values, const float* values, float cap, std::int64_t count, Stream stream) {
    if (count == 0) return;
    launch(soft_cap_backward_kernel<T>, blocks_for(count), threads, 0, stream, d_values, values, cap, count);
}

template void soft_cap_backward(float*, const float*, float, std::int64_t, Stream);
template void soft_cap_backward(bf16*, const float*, float, std::int64_t, Stream);

}  // namespace pvtune::cuda
