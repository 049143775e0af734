// sum_of_squares: sum of values[i]^2 in f64, which no f32 can overflow; blocks first, then one block over their sums.
// sum: likewise, of the values themselves.
// count_flags: bytes that are not 0, 16 at a time; integers, so blocks add to the total in any order.

#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;
constexpr int pieces = 4;  ///< of 16 bytes a thread
constexpr int reduce_threads = 1024;
constexpr int piece_flags = 16;

template <class T>
inline constexpr std::int64_t block_elements = std::int64_t{block_threads} * lanes_of<T>* pieces;

template <bool squared>
__device__ inline double added(double sum, double value) {
    return squared ? fma(value, value, sum) : sum + value;
}

template <bool squared, class T>
__global__ void __launch_bounds__(block_threads) sum_kernel(double* sums, const T* values, std::int64_t count) {
    constexpr int lanes = lanes_of<T>;
    __shared__ double partials[block_threads / warp_size];
    const std::int64_t begin = blockIdx.x * block_elements<T> + threadIdx.x * lanes;
    Packed<T, lanes> held[pieces];
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        const std::int64_t first = begin + i * block_threads * lanes;
        if (first + lanes <= count) held[i] = load_packed<lanes>(values + first);
    }
    double sum = 0;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        const std::int64_t first = begin + i * block_threads * lanes;
        if (first + lanes <= count) {
            float here[lanes];
            unpack(here, held[i]);
            for (int j = 0; j < lanes; ++j) sum = added<squared>(sum, static_cast<double>(here[j]));
        } else {
            for (std::int64_t j = first; j < count; ++j) {
                sum = added<squared>(sum, static_cast<double>(to_float(values[j])));
            }
        }
    }
    sum = block_sum(sum, partials);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(reduce_threads)
    sum_blocks_kernel(double* total, const double* sums, std::int64_t count) {
    __shared__ double partials[reduce_threads / warp_size];
    double sum = 0;
    for (std::int64_t i = threadIdx.x; i < count; i += reduce_threads) sum += sums[i];
    sum = block_sum(sum, partials);
    if (threadIdx.x == 0) *total = sum;
}

/// Bytes of the word that are not 0: their highest bit is set, or becomes so when 0x7f is added to the others.
__device__ inline std::uint32_t count_bytes(std::uint32_t word) {
    constexpr std::uint32_t low_bits = 0x7f7f7f7fU;
    return static_cast<std::uint32_t>(__popc((((word & low_bits) + low_bits) | word) & ~low_bits));
}

__global__ void __launch_bounds__(block_threads)
    count_flags_kernel(std::uint32_t* total, const std::uint8_t* flags, std::int64_t count) {
    __shared__ std::uint32_t partials[block_threads / warp_size];
    std::uint32_t sum = 0;
    const std::int64_t step = std::int64_t{gridDim.x} * block_threads * piece_flags;
    for (std::int64_t first = (std::int64_t{blockIdx.x} * block_threads + threadIdx.x) * piece_flags; first < count;
         first += step) {
        if (first + piece_flags <= count) {
            const uint4 bits = *reinterpret_cast<const uint4*>(flags + first);
            sum += count_bytes(bits.x) + count_bytes(bits.y) + count_bytes(bits.z) + count_bytes(bits.w);
        } else {
            for (std::int64_t i = first; i < count; ++i) sum += flags[i] != 0 ? 1U : 0U;
        }
    }
    sum = block_sum(sum, partials);
    if (threadIdx.x == 0) atomicAdd(total, sum);
}

}  // namespace

std::size_t sum_of_squares_workspace(std::int64_t count) {
    return static_cast<std::size_t>(ceil_divide(count, block_elements<float>)) * sizeof(double);
}

namespace {

template <bool squared, class T>
void start_sum(double* total, const T* values, std::int64_t count, void* workspace, Stream stream) {
    auto* const sums = static_cast<double*>(workspace);
    const std::int64_t blocks = ceil_divide(count, block_elements<T>);
    if (blocks > 0) {
        launch(sum_kernel<squared, T>, static_cast<unsigned>(blocks), block_threads, 0, stream, sums, values, count);
    }
    launch(sum_blocks_kernel, 1, reduce_threads, 0, stream, total, sums, blocks);
}

}  // namespace

template <class T>
void sum_of_squares(double* sum, const T* values, std::int64_t count, void* workspace, Stream stream) {
    start_sum<true>(sum, values, count, workspace, stream);
}

void sum(double* total, const float* values, std::int64_t count, void* workspace, Stream stream) {
    start_sum<false>(total, values, count, workspace, stream);
}

void count_flags(std::uint32_t* total, const std::uint8_t* flags, std::int64_t count, Stream stream) {
    constexpr std::int64_t most_blocks = 528;
    check(cudaMemsetAsync(total, 0, sizeof(*total), stream), "clearing a counter");
    if (count == 0) return;
    const std::int64_t blocks = ceil_divide(count, block_threads * piece_flags);
    launch(count_flags_kernel, static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks), block_threads, 0,
           stream, total, flags, count);
}

template void sum_of_squares(double*, const float*, std::int64_t, void*, Stream);
template void sum_of_squares(double*, const bf16*, std::int64_t, void*, Stream);

}  // namespace pvtune::cuda
