// Rotary position embedding (Su et al. 2021) in the Hugging Face layout, in place: with a, b = elements i and i + half
// of a head, a' = a cos - b sin, b' = b cos + a sin; what is behind 2 half stays. The backward pass turns the other
// way. A thread takes 16 bytes of a and the 16 of b that belong to them.

#include "cuda/kernels.h"
#include "cuda/vector.cuh"

#include <limits>
#include <stdexcept>

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

template <class T, int count>
__global__ void __launch_bounds__(block_threads)
    rope_kernel(T* heads, const float* cosines, const float* sines, std::uint32_t items, std::uint32_t head_count,
                std::uint32_t head_dim, std::uint32_t head_pieces, std::uint32_t length, float direction) {
    const std::uint32_t item = blockIdx.x * block_threads + threadIdx.x;
    if (item >= items) return;
    const std::uint32_t head = item / head_pieces;  // of all tokens
    const std::uint32_t first = item % head_pieces * count;
    const std::uint32_t half = head_pieces * count;
    const std::uint32_t position = head / head_count % length;
    T* const low = heads + static_cast<std::int64_t>(head) * head_dim + first;
    T* const high = low + half;
    const std::int64_t angles = static_cast<std::int64_t>(position) * half + first;
    float a[count];
    float b[count];
    float cosine[count];
    float sine[count];
    load_values<count>(a, low);
    load_values<count>(b, high);
    load_values<count>(cosine, cosines + angles);
    load_values<count>(sine, sines + angles);
#pragma unroll
    for (int i = 0; i < count; ++i) {
        const float from = a[i];
        const float turned = direction * sine[i];
        a[i] = fmaf(from, cosine[i], -(b[i] * turned));
        b[i] = fmaf(b[i], cosine[i], from * turned);
    }
    store_values<count>(low, a);
    store_values<count>(high, b);
}

template <int count, class T>
void rotate_pieces(T* heads, const float* cosines, const float* sines, std::int64_t tokens, std::int64_t head_count,
                   std::int64_t head_dim, std::int64_t half, std::int64_t length, float direction, Stream stream) {
    const std::int64_t items = tokens * head_count * (half / count);
    if (items > std::numeric_limits<std::uint32_t>::max() - block_threads) {
        throw std::invalid_argument("rope: too many heads for one call");
    }
    launch(rope_kernel<T, count>, static_cast<unsigned>(ceil_divide(items, block_threads)), block_threads, 0, stream,
           heads, cosines, sines, items, head_count, head_dim, half / count, length, direction);
}

template <class T>
void rotate(T* heads, const float* cosines, const float* sines, std::int64_t tokens, std::int64_t head_count,
            std::int64_t head_dim, std::int64_t half, std::int64_t length, float direction, Stream stream) {
    if (2 * half > head_dim) throw std::invalid_argument("rope: more elements to turn than heads have");
    if (tokens * head_count * half == 0) return;
    if (half % lanes_of<T> == 0 && head_dim % lanes_of<T> == 0) {
        rotate_pieces<lanes_of<T>>(heads, cosines, sines, tokens, head_count, head_dim, half, length, direction,
                                   stream);
    } else {
        rotate_pieces<1>(heads, cosines, sines, tokens, head_count, head_dim, half, length, direction, stream);
    }
}

}  // namespace

template <class T>
void rope_forward(T* heads, const float* cosines, const float* sines, std::int64_t tokens, std::int64_t head_count,
                  std::int64_t head_dim, std::int64_t half, std::int64_t length, Stream stream) {
    rotate(heads, cosines, sines, tokens, head_count, head_dim, half, length, 1.0F, stream);
}

template <class T>
void rope_backward(T* d_heads, const float* cosines, const float* sines, std::int64_t tokens, std::int64_t head_count,
                   std::int64_t head_dim, std::int64_t half, std::int64_t length, Stream stream) {
    rotate(d_heads, cosines, sines, tokens, head_count, head_dim, half, length, -1.0F, stream);
}

template void rope_forward(float*, const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                           std::int64_t, Stream);
template void rope_forward(bf16*, const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                           std::int64_t, Stream);
template void rope_backward(float*, const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                            std::int64_t, Stream);
template void rope_backward(bf16*, const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                            std::int64_t, Stream);

}  // namespace pvtune::cuda
