// Which groups a V step searches and which of their codes stay, for any representation: a thread a group, but for the
// histogram. Called by Ops' functions of the same names; the order of scores and the trust ratio are in
// select_largest.cu and code_changes.cu.

#include "cuda/kernels.h"
#include "cuda/random.cuh"

#include <algorithm>

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;
constexpr int score_bins = 1024;
constexpr std::int64_t most_histogram_blocks = 264;

__device__ inline std::int64_t thread_index() { return std::int64_t{blockIdx.x} * block_threads + threadIdx.x; }

unsigned blocks_for(std::int64_t threads) { return static_cast<unsigned>(ceil_divide(threads, block_threads)); }

__global__ void __launch_bounds__(block_threads)
    sampling_keys_kernel(float* keys, const float* scores, std::int64_t count, float inverse_temperature,
                         std::uint64_t seed) {
    const std::int64_t j = thread_index();
    if (j >= count) return;
    const float gumbel = -logf(-logf(uniform_at(seed, static_cast<std::uint64_t>(j))));
    keys[j] = (inverse_temperature > 0 ? inverse_temperature * logf(scores[j]) : 0.0F) + gumbel;
}

__global__ void __launch_bounds__(block_threads)
    round_robin_kernel(std::uint32_t* indices, std::int64_t count, std::int64_t first, std::int64_t groups) {
    const std::int64_t i = thread_index();
    if (i < count) indices[i] = static_cast<std::uint32_t>((first + i) % groups);
}

/// A histogram a block in shared memory, added to the whole at its end: integers, any order gives the same.
__global__ void __launch_bounds__(block_threads)
    score_histogram_kernel(std::uint32_t* histogram, const float* scores, std::int64_t count) {
    __shared__ std::uint32_t own[score_bins];
    for (int b = static_cast<int>(threadIdx.x); b < score_bins; b += block_threads) own[b] = 0;
    __syncthreads();
    const std::int64_t step = std::int64_t{gridDim.x} * block_threads;
    for (std::int64_t j = thread_index(); j < count; j += step) {
        const float score = scores[j] + 0.0F;  // -0 as 0
        if (score >= 0) atomicAdd(&own[__float_as_uint(score) >> 21], 1U);
    }
    __syncthreads();
    for (int b = static_cast<int>(threadIdx.x); b < score_bins; b += block_threads) {
        if (own[b] > 0) atomicAdd(&histogram[b], own[b]);
    }
}

__global__ void __launch_bounds__(block_threads)
    scatter_difference_kernel(float* scores, const float* before, const float* after, const std::uint32_t* chosen,
                              std::int64_t count) {
    const std::int64_t i = thread_index();
    if (i < count) scores[chosen[i]] = before[i] - after[i];
}

__global__ void __launch_bounds__(block_threads)
    keep_by_chance_kernel(std::uint8_t* keep, const float* nearest, const float* second, const std::uint32_t* chosen,
                          std::int64_t count, float power, std::uint64_t seed) {
    const std::int64_t i = thread_index();
    if (i >= count) return;
    const float odds = expf(power * logf(second[i] / nearest[i]));
    const float chance = 1 / (1 + odds);
    keep[i] = uniform_at(seed, chosen[i]) < chance ? 1 : 0;
}

__device__ inline bool same_bytes(const std::byte* a, const std::byte* b, int bytes) {
    for (int i = 0; i < bytes; ++i) {
        if (a[i] != b[i]) return false;
    }
    return true;
}

__global__ void __launch_bounds__(block_threads)
    rows_differ_kernel(std::uint8_t* differ, const std::byte* a, const std::byte* b, std::int64_t rows, int bytes) {
    const std::int64_t i = thread_index();
    if (i < rows) differ[i] = same_bytes(a + i * bytes, b + i * bytes, bytes) ? 0 : 1;
}

__global__ void __launch_bounds__(block_threads)
    note_returns_kernel(std::uint8_t* returned, std::byte* history, const std::byte* now, const std::byte* before,
                        const std::uint32_t* chosen, std::int64_t rows, int bytes) {
    const std::int64_t i = thread_index();
    if (i >= rows) return;
    const std::byte* const is = now + i * bytes;
    const std::byte* const was = before + i * bytes;
    std::byte* const earlier = history + chosen[i] * std::int64_t{bytes};
    const bool changed = !same_bytes(is, was, bytes);
    returned[i] = changed && same_bytes(is, earlier, bytes) ? 1 : 0;
    if (!changed) return;
    for (int b = 0; b < bytes; ++b) earlier[b] = was[b];
}

}  // namespace

void sampling_keys(float* keys, const float* scores, std::int64_t count, float inverse_temperature, std::uint64_t seed,
                   Stream stream) {
    if (count == 0) return;
    launch(sampling_keys_kernel, blocks_for(count), block_threads, 0, stream, keys, scores, count, inverse_temperature,
           seed);
}

void round_robin(std::uint32_t* indices, std::int64_t count, std::int64_t first, std::int64_t groups, Stream stream) {
    if (count == 0) return;
    launch(round_robin_kernel, blocks_for(count), block_threads, 0, stream, indices, count, first, groups);
}

void score_histogram(std::uint32_t* histogram, const float* scores, std::int64_t count, Stream stream) {
    check(cudaMemsetAsync(histogram, 0, score_bins * sizeof(*histogram), stream), "clearing a histogram");
    if (count == 0) return;
    const std::int64_t blocks = std::min<std::int64_t>(ceil_divide(count, block_threads), most_histogram_blocks);
    launch(score_histogram_kernel, static_cast<unsigned>(blocks), block_threads, 0, stream, histogram, scores, count);
}

void scatter_difference(float* scores, const float* before, const float* after, const std::uint32_t* chosen,
                        std::int64_t count, Stream stream) {
    if (count == 0) return;
    launch(scatter_difference_kernel, blocks_for(count), block_threads, 0, stream, scores, before, after, chosen,
           count);
}

void keep_by_chance(std::uint8_t* keep, const float* nearest, const float* second, const std::uint32_t* chosen,
                    std::int64_t count, float temperature, std::uint64_t seed, Stream stream) {
    if (count == 0) return;
    launch(keep_by_chance_kernel, blocks_for(count), block_threads, 0, stream, keep, nearest, second, chosen, count,
           0.5F / temperature, seed);
}

void rows_differ(std::uint8_t* differ, const std::byte* a, const std::byte* b, std::int64_t rows,
                 std::int64_t row_bytes, Stream stream) {
    if (rows == 0) return;
    launch(rows_differ_kernel, blocks_for(rows), block_threads, 0, stream, differ, a, b, rows,
           static_cast<int>(row_bytes));
}

void note_returns(std::uint8_t* returned, std::byte* history, const std::byte* now, const std::byte* before,
                  const std::uint32_t* chosen, std::int64_t rows, std::int64_t row_bytes, Stream stream) {
    if (rows == 0) return;
    launch(note_returns_kernel, blocks_for(rows), block_threads, 0, stream, returned, history, now, before, chosen,
           rows, static_cast<int>(row_bytes));
}

}  // namespace pvtune::cuda
