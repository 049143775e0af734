// Rows of a table by token, and the gradient of the table: d_table[tokens[t]] += d_hidden[t].
//
// Backward: a token may occur many times in a batch, and its occurrences are added in the order of t. So the pairs
// (token, t) are sorted (chunks of 1024 in shared memory, then every pair finds its place by a binary search in each
// chunk), and one warp a distinct token and slice of columns walks along the token's pairs. Frequent tokens do not
// hold up the rest for long: a warp keeps eight rows under way while it adds.

#include "cuda/kernels.h"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;
constexpr int block_warps = block_threads / warp_size;
constexpr int chunk_keys = 1024;
constexpr std::uint64_t no_key = ~std::uint64_t{0};

/// One warp a row.
template <class T, int count>
__global__ void embedding_forward_kernel(T* hidden, const T* table, const std::uint32_t* tokens, std::int64_t rows,
                                         std::int64_t width) {
    constexpr int under_way = 4;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * block_warps + threadIdx.x / warp_size;
    if (t >= rows) return;
    const T* from = table + tokens[t] * width;
    T* to = hidden + t * width;
    for (std::int64_t first = lane * count; first < width; first += under_way * warp_size * count) {
        Packed<T, count> pieces[under_way];
#pragma unroll
        for (int i = 0; i < under_way; ++i) {
            const std::int64_t column = first + i * warp_size * count;
            if (column < width) pieces[i] = load_packed<count>(from + column);
        }
#pragma unroll
        for (int i = 0; i < under_way; ++i) {
            const std::int64_t column = first + i * warp_size * count;
            if (column < width) store_packed(to + column, pieces[i]);
        }
    }
}

__device__ inline std::uint64_t key_of(const std::uint32_t* tokens, std::int64_t t) {
    return (static_cast<std::uint64_t>(tokens[t]) << 32) | static_cast<std::uint64_t>(t);
}

/// Keys (token, t) of 1024 tokens in ascending order, by a bitonic network; absent keys come last.
__global__ void __launch_bounds__(chunk_keys / 2)
    sort_chunk_kernel(std::uint64_t* sorted, const std::uint32_t* tokens, std::int64_t count) {
    __shared__ std::uint64_t keys[chunk_keys];
    const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * chunk_keys;
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < chunk_keys; i += chunk_keys / 2) {
        keys[i] = begin + i < count ? key_of(tokens, begin + i) : no_key;
    }
    for (int size = 2; size <= chunk_keys; size *= 2) {
        for (int stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            const int low = 2 * thread - (thread & (stride - 1));
            const int high = low + stride;
            const bool ascending = (low & size) == 0;
            const std::uint64_t a = keys[low];
            const std::uint64_t b = keys[high];
            if ((a > b) == ascending) {
                keys[low] = b;
                keys[high] = a;
            }
        }
    }
    __syncthreads();
    for (int i = thread; i < chunk_keys; i += chunk_keys / 2) sorted[begin + i] = keys[i];
}

/// Puts every key where it belongs among all: the number of smaller keys over all chunks.
__global__ void __launch_bounds__(block_threads) place_keys_kernel(std::uint64_t* ordered, const std::uint64_t* sorted,
                                                                   const std::uint32_t* tokens, std::int64_t count) {
    __shared__ std::uint64_t chunk[chunk_keys];
    const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    const std::uint64_t key = t < count ? key_of(tokens, t) : no_key;
    std::int64_t place = 0;
    for (std::int64_t begin = 0; begin < count; begin += chunk_keys) {
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < chunk_keys; i += block_threads) chunk[i] = sorted[begin + i];
        __syncthreads();
        int smaller = 0;
#pragma unroll
        for (int step = chunk_keys / 2; step > 0; step /= 2) {
            if (chunk[smaller + step - 1] < key) smaller += step;
        }
        if (chunk[smaller] < key) ++smaller;
        place += smaller;
    }
    if (t < count) ordered[place] = key;
}

/// One warp a place in the order and a slice of columns; only the first place of a token has work.
template <class T, int count>
__global__ void __launch_bounds__(block_threads)
    embedding_backward_kernel(float* d_table, const T* d_hidden, const std::uint64_t* ordered, std::int64_t keys,
                              std::int64_t width) {
    constexpr int under_way = 8;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * block_warps + threadIdx.x / warp_size;
    if (place >= keys) return;
    const auto token = static_cast<std::uint32_t>(ordered[place] >> 32);
    if (place > 0 && static_cast<std::uint32_t>(ordered[place - 1] >> 32) == token) return;

    const std::int64_t column = (static_cast<std::int64_t>(blockIdx.y) * warp_size + lane) * count;
    const bool inside = column < width;
    float* const to = d_table + token * width + column;
    float sums[count] = {};
    if (inside) load_values<count>(sums, to);
    int occurrences = warp_size;
    for (std::int64_t first = place; occurrences == warp_size; first += warp_size) {
        const std::uint64_t key = first + lane < keys ? ordered[first + lane] : no_key;
        const auto mine = static_cast<std::uint32_t>(key);
        occurrences = __popc(__ballot_sync(whole_warp, static_cast<std::uint32_t>(key >> 32) == token));
        for (int begin = 0; begin < occurrences; begin += under_way) {
            Packed<T, count> rows[under_way];
#pragma unroll
            for (int i = 0; i < under_way; ++i) {
                const std::int64_t t = __shfl_sync(whole_warp, mine, (begin + i) % warp_size);
                if (inside && begin + i < occurrences) rows[i] = load_packed<count>(d_hidden + t * width + column);
            }
#pragma unroll
            for (int i = 0; i < under_way; ++i) {
                if (!inside || begin + i >= occurrences) continue;
                float values[count];
                unpack(values, rows[i]);
#pragma unroll
                for (int j = 0; j < count; ++j) sums[j] += values[j];
            }
        }
    }
    if (inside) store_values<count>(to, sums);
}

template <class T, int count>
void add_rows(float* d_table, const T* d_hidden, const std::uint64_t* ordered, std::int64_t keys, std::int64_t width,
              Stream stream) {
    const dim3 grid(static_cast<unsigned>(ceil_divide(keys, block_warps)),
                    static_cast<unsigned>(ceil_divide(width, warp_size * count)));
    launch(embedding_backward_kernel<T, count>, grid, block_threads, 0, stream, d_table, d_hidden, ordered, keys,
           width);
}

std::int64_t padded_keys(std::int64_t count) { return ceil_divide(count, chunk_keys) * chunk_keys; }

}  // namespace

template <class T>
void embedding_forward(T* hidden, const T* table, const std::uint32_t* tokens, std::int64_t count, std::int64_t width,
                       Stream stream) {
    if (count == 0 || width == 0) return;
    const auto blocks = static_cast<unsigned>(ceil_divide(count, block_warps));
    const bool aligned = width % lanes_of<T> == 0;
    launch(aligned ? embedding_forward_kernel<T, lanes_of<T>> : embedding_forward_kernel<T, 1>, blocks, block_threads,
           0, stream, hidden, table, tokens, count, width);
}

std::size_t embedding_backward_workspace(std::int64_t count, std::int64_t /*vocabulary*/) {
    return 2 * static_cast<std::size_t>(padded_keys(count)) * sizeof(std::uint64_t);
}

template <class T>
void embedding_backward(float* d_table, const T* d_hidden, const std::uint32_t* tokens, std::int64_t count,
                        std::int64_t width, std::int64_t /*vocabulary*/, void* workspace, Stream stream) {
    if (count == 0 || width == 0) return;
    const std::int64_t chunks = ceil_divide(count, chunk_keys);
    auto* const sorted = static_cast<std::uint64_t*>(workspace);
    std::uint64_t* ordered = sorted;
    launch(sort_chunk_kernel, static_cast<unsigned>(chunks), chunk_keys / 2, 0, stream, sorted, tokens, count);
    if (chunks > 1) {
        ordered = sorted + padded_keys(count);
        launch(place_keys_kernel, static_cast<unsigned>(ceil_divide(count, block_threads)), block_threads, 0, stream,
               ordered, sorted, tokens, count);
    }
    if (width % lanes_of<T> == 0) {
        add_rows<T, lanes_of<T>>(d_table, d_hidden, ordered, count, width, stream);
    } else {
        add_rows<T, 1>(d_table, d_hidden, ordered, count, width, stream);
    }
}

template void embedding_forward(float*, const float*, const std::uint32_t*, std::int64_t, std::int64_t, Stream);
template void embedding_forward(bf16*, const bf16*, const std::uint32_t*, std::int64_t, std::int64_t, Stream);
template void embedding_backward(float*, const float*, const std::uint32_t*, std::int64_t, std::int64_t, std::int64_t,
                                 void*, Stream);
template void embedding_backward(float*, const bf16*, const std::uint32_t*, std::int64_t, std::int64_t, std::int64_t,
                                 void*, Stream);

}  // namespace pvtune::cuda
