// The indices of the `wanted` largest scores, ascending; ties: the lower index first. A radix select: three histograms
// over 11, 11 and 10 bits of an order-preserving key find the smallest key that is chosen (as
// host/backend/cpu/select_largest.cpp does), a fourth pass counts each block's share, a fifth writes. Every pass reads
// the scores once; what a pass needs of the one before it, every block works out for itself, so that there are no
// kernels of one block in between. Counts are integers: any order of the additions gives the same. (CUB's radix sort of
// scores with their indices would move some 64 bytes a score, this moves 20; its top-k leaves open which of equals
// wins.)

#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/score_key.cuh"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 512;
constexpr int block_warps = block_threads / warp_size;
constexpr int most_blocks = 528;  // 132 multiprocessors hold 4 of these blocks each
constexpr int passes = 3;
constexpr int most_digits = 2048;
constexpr int digits_a_thread = most_digits / block_threads;

struct Digit {
    int shift, bits;
};
__host__ __device__ constexpr Digit digit_of(int pass) {
    return pass == 0 ? Digit{21, 11} : pass == 1 ? Digit{10, 11} : Digit{0, 10};
}

/// What is known of the smallest chosen key.
struct Threshold {
    std::uint32_t prefix;
    std::uint32_t known;      // mask of the prefix's bits
    std::uint32_t remaining;  // to be chosen among the keys that share the prefix
};

struct Share {
    std::uint32_t above, equal;
};

struct Workspace {
    std::uint32_t histograms[passes][most_digits];
    Threshold thresholds[passes];
    Share shares[most_blocks];
};

/// Sums over the threads before this one; total: over all. `partials`: shared, one element a warp.
__device__ inline std::uint32_t exclusive_block_sum(std::uint32_t value, std::uint32_t* partials,
                                                    std::uint32_t& total) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    std::uint32_t inclusive = value;
    for (int offset = 1; offset < warp_size; offset *= 2) {
        const std::uint32_t other = __shfl_up_sync(whole_warp, inclusive, offset);
        if (lane >= offset) inclusive += other;
    }
    if (lane == warp_size - 1) partials[warp] = inclusive;
    __syncthreads();
    std::uint32_t before = 0;
    total = 0;
    for (int i = 0; i < block_warps; ++i) {
        if (i < warp) before += partials[i];
        total += partials[i];
    }
    __syncthreads();
    return before + inclusive - value;
}

/// The threshold after `pass` histograms, from the one before and the last histogram: the digit at which the counts
/// from the top reach what remains. In every thread.
__device__ inline Threshold narrow(const Workspace* workspace, int pass, std::uint32_t wanted) {
    __shared__ std::uint32_t partials[block_warps];
    __shared__ Threshold found;
    Threshold threshold{0, 0, wanted};
    if (pass == 0) return threshold;
    if (pass > 1) threshold = workspace->thresholds[pass - 2];
    const Digit digit = digit_of(pass - 1);
    const std::uint32_t mask = (1U << digit.bits) - 1;
    // Thread t has the digits below most_digits - t * digits_a_thread: sums over threads run from the top.
    std::uint32_t counts[digits_a_thread];
    std::uint32_t sum = 0;
    for (int i = 0; i < digits_a_thread; ++i) {
        counts[i] = workspace->histograms[pass - 1][most_digits - 1 - (threadIdx.x * digits_a_thread + i)];
        sum += counts[i];
    }
    std::uint32_t total = 0;
    std::uint32_t above = exclusive_block_sum(sum, partials, total);
    for (int i = 0; i < digits_a_thread; ++i) {
        if (above < threshold.remaining && threshold.remaining <= above + counts[i]) {
            const std::uint32_t value = most_digits - 1 - (threadIdx.x * digits_a_thread + i);
            found = {threshold.prefix | value << digit.shift, threshold.known | mask << digit.shift,
                     threshold.remaining - above};
        }
        above += counts[i];
    }
    __syncthreads();
    return found;
}

__global__ void __launch_bounds__(block_threads)
    histogram_kernel(Workspace* workspace, const float* __restrict__ scores, std::int64_t count, int pass,
                     std::uint32_t wanted) {
    __shared__ std::uint32_t histogram[most_digits];
    for (int i = static_cast<int>(threadIdx.x); i < most_digits; i += block_threads) histogram[i] = 0;
    const Threshold threshold = narrow(workspace, pass, wanted);
    if (pass > 0 && blockIdx.x == 0 && threadIdx.x == 0) workspace->thresholds[pass - 1] = threshold;
    const Digit digit = digit_of(pass);
    const std::uint32_t mask = (1U << digit.bits) - 1;
    __syncthreads();
    const auto add = [&](float score) {
        const std::uint32_t key = key_of(score);
        if ((key & threshold.known) == threshold.prefix) atomicAdd(&histogram[key >> digit.shift & mask], 1U);
    };
    const std::int64_t step = std::int64_t{gridDim.x} * block_threads;
    const std::int64_t own = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    const std::int64_t pieces = count / 4;
    for (std::int64_t i = own; i < pieces; i += step) {
        const float4 four = reinterpret_cast<const float4*>(scores)[i];
        add(four.x);
        add(four.y);
        add(four.z);
        add(four.w);
    }
    if (own < count % 4) add(scores[pieces * 4 + own]);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < most_digits; i += block_threads) {
        if (histogram[i] != 0) atomicAdd(&workspace->histograms[pass][i], histogram[i]);
    }
}

/// Every block counts, and then writes, a range of its own: `tiles` times block_threads scores.
__device__ inline std::int64_t first_of(unsigned block, int tiles) {
    return std::int64_t{block} * tiles * block_threads;
}

__global__ void __launch_bounds__(block_threads) count_kernel(Workspace* workspace, const float* __restrict__ scores,
                                                              std::int64_t count, int tiles, std::uint32_t wanted) {
    __shared__ std::uint32_t partials[block_warps];
    const Threshold threshold = narrow(workspace, passes, wanted);
    if (blockIdx.x == 0 && threadIdx.x == 0) workspace->thresholds[passes - 1] = threshold;
    std::uint32_t above = 0;
    std::uint32_t equal = 0;
    for (int tile = 0; tile < tiles; ++tile) {
        const std::int64_t i = first_of(blockIdx.x, tiles) + std::int64_t{tile} * block_threads + threadIdx.x;
        const std::uint32_t key = i < count ? key_of(scores[i]) : 0;
        above += i < count && key > threshold.prefix;
        equal += i < count && key == threshold.prefix;
    }
    above = block_sum(above, partials);
    equal = block_sum(equal, partials);
    if (threadIdx.x == 0) workspace->shares[blockIdx.x] = {above, equal};
}

__global__ void __launch_bounds__(block_threads)
    write_kernel(std::uint32_t* indices, const Workspace* workspace, const float* __restrict__ scores,
                 std::int64_t count, int tiles) {
    __shared__ std::uint32_t partials[block_warps];
    const Threshold threshold = workspace->thresholds[passes - 1];
    std::uint32_t above = 0;
    std::uint32_t equal = 0;
    for (unsigned block = threadIdx.x; block < blockIdx.x; block += block_threads) {
        above += workspace->shares[block].above;
        equal += workspace->shares[block].equal;
    }
    above = block_sum(above, partials);
    equal = block_sum(equal, partials);
    const Share own = workspace->shares[blockIdx.x];
    if (own.above == 0 && (own.equal == 0 || equal >= threshold.remaining)) return;
    for (int tile = 0; tile < tiles; ++tile) {
        const std::int64_t i = first_of(blockIdx.x, tiles) + std::int64_t{tile} * block_threads + threadIdx.x;
        const std::uint32_t key = i < count ? key_of(scores[i]) : 0;
        const bool is_above = i < count && key > threshold.prefix;
        const bool is_equal = i < count && key == threshold.prefix;
        // Both counts in one word: a tile has fewer than 2^16 scores.
        std::uint32_t total = 0;
        const std::uint32_t before =
            exclusive_block_sum(static_cast<std::uint32_t>(is_above) << 16 | is_equal, partials, total);
        const std::uint32_t equal_before = equal + (before & 0xffffU);
        if (is_above || (is_equal && equal_before < threshold.remaining)) {
            indices[above + (before >> 16) + min(equal_before, threshold.remaining)] = static_cast<std::uint32_t>(i);
        }
        above += total >> 16;
        equal += total & 0xffffU;
    }
}

}  // namespace

std::size_t select_largest_workspace(std::int64_t, std::int64_t) { return sizeof(Workspace); }

void select_largest(std::uint32_t* indices, const float* scores, std::int64_t wanted, std::int64_t count,
                    void* workspace, Stream stream) {
    if (wanted < 0 || wanted > count || count > 0xffffffffLL) {
        throw std::invalid_argument("the largest " + std::to_string(wanted) + " of " + std::to_string(count) +
                                    " scores");
    }
    if (wanted == 0) return;
    auto* const state = static_cast<Workspace*>(workspace);
    const auto most = static_cast<std::uint32_t>(wanted);
    check(cudaMemsetAsync(state->histograms, 0, sizeof(state->histograms), stream), "clearing histograms");
    const auto blocks_for = [](std::int64_t threads) {
        return static_cast<unsigned>(std::min<std::int64_t>(ceil_divide(threads, block_threads), most_blocks));
    };
    for (int pass = 0; pass < passes; ++pass) {
        launch(histogram_kernel, blocks_for(ceil_divide(count, 4)), block_threads, 0, stream, state, scores, count,
               pass, most);
    }
    const auto tiles = static_cast<int>(ceil_divide(count, std::int64_t{most_blocks} * block_threads));
    const auto ranges = static_cast<unsigned>(ceil_divide(count, std::int64_t{tiles} * block_threads));
    launch(count_kernel, ranges, block_threads, 0, stream, state, scores, count, tiles, most);
    launch(write_kernel, ranges, block_threads, 0, stream, indices, state, scores, count, tiles);
}

}  // namespace pvtune::cuda
