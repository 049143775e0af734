// The V step's target and the scores of the groups (PV-Tuning, Malinovskii et al. 2024):
//   v = beta2 v + (1 - beta2) g^2,  u = g / (sqrt(v / (1 - beta2^step)) + epsilon)
//   target = base - rate * r * u,   r = |base| / |u| with LAMB scaling, else 1
//   scores[j] = |target_j - current_j|^2 over the weights of group j
//
// Bound by memory, 16 bytes an element and pass in f32. v is kept in f32 or bf16, and u is that of the v that is kept;
// or one f32 stands for 4, 8 or 16 neighbours, whose mean g^2 it follows. The first pass updates v and sums the two
// norms, in f64 and in an order that the shape alone decides; every block of the second adds these sums up for itself,
// so that nothing waits for the host, recomputes u and writes target and scores. The second pass runs backwards: what
// the first one read last is still in L2.

#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;
constexpr int most_blocks = 792;  // 132 multiprocessors hold 6 of these blocks each
constexpr int whole_piece = 4;    // weights of a thread at a time; 1 where the matrix is no multiple

/// One block's share of |base|^2 and |u|^2.
struct Squares {
    double base;
    double update;
};

struct MomentFactors {
    float beta2, epsilon;
    float correction;  // 1 / (1 - beta2^step)
};

__device__ inline float update_of(float gradient, float second, const MomentFactors& factors) {
    return gradient / (sqrtf(second * factors.correction) + factors.epsilon);
}

/// What a thread's piece needs of v: its own values, or the one that its moment group shares.
template <int piece, bool shared, class Moment>
__device__ inline void load_moments(float (&v)[piece], const Moment* second_moment, std::int64_t i, int sharing) {
    if constexpr (shared) {
        const float value = to_float(second_moment[i / sharing]);
#pragma unroll
        for (int j = 0; j < piece; ++j) v[j] = value;
    } else {
        load_values<piece>(v, second_moment + i * piece);
    }
}

/// shared: one v for the pieces of `sharing` neighbouring threads (1, 2 or 4); pieces is a multiple of it.
template <int piece, bool shared, class Moment, class Base>
__global__ void __launch_bounds__(block_threads)
    moments_kernel(Squares* squares, Moment* second_moment, const float* d_weight, const Base* base,
                   std::int64_t pieces, int sharing, MomentFactors factors) {
    __shared__ double partials[block_threads / warp_size];
    double base_square = 0;
    double update_square = 0;
    const std::int64_t tiles = ceil_divide(pieces, block_threads);
    for (std::int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const std::int64_t i = tile * block_threads + threadIdx.x;
        float g[piece] = {};
        float v[piece] = {};
        if (i < pieces) {
            load_values<piece>(g, d_weight + i * piece);
            load_moments<piece, shared>(v, second_moment, i, sharing);
        }
        float mean = 0;  // of g^2, where it is shared
        if constexpr (shared) {
#pragma unroll
            for (int j = 0; j < piece; ++j) mean = fmaf(g[j], g[j], mean);
            for (int offset = 1; offset < sharing; offset *= 2) mean += __shfl_xor_sync(whole_warp, mean, offset);
            mean /= static_cast<float>(sharing * piece);
            __syncwarp();  // all that share a v have read it
        }
        if (i >= pieces) continue;
        float b[piece];
        load_values<piece>(b, base + i * piece);
#pragma unroll
        for (int j = 0; j < piece; ++j) {
            const float square = shared ? mean : g[j] * g[j];
            v[j] = to_float(from_float<Moment>(fmaf(factors.beta2, v[j], (1.0F - factors.beta2) * square)));
            const auto u = static_cast<double>(update_of(g[j], v[j], factors));
            update_square = fma(u, u, update_square);
            base_square = fma(static_cast<double>(b[j]), static_cast<double>(b[j]), base_square);
        }
        if constexpr (shared) {
            if (i % sharing == 0) second_moment[i / sharing] = v[0];
        } else {
            store_values<piece>(second_moment + i * piece, v);
        }
    }
    base_square = block_sum(base_square, partials);
    update_square = block_sum(update_square, partials);
    if (threadIdx.x == 0) squares[blockIdx.x] = {base_square, update_square};
}

/// rate * |base| / |u|, or rate where a norm is zero or not a number.
__device__ inline float scaled_rate(const Squares* squares, int count, float rate, double* partials) {
    double base_square = 0;
    double update_square = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += block_threads) {
        base_square += squares[i].base;
        update_square += squares[i].update;
    }
    const double base_norm = sqrt(block_sum(base_square, partials));
    const double update_norm = sqrt(block_sum(update_square, partials));
    const double ratio = base_norm > 0 && update_norm > 0 ? base_norm / update_norm : 1;
    return static_cast<float>(static_cast<double>(rate) * ratio);
}

// No pointer is __restrict__: base may be target's buffer or current's. A thread reads all of its piece before it
// writes.
template <int piece, int group, bool shared, class Moment, class Base, class Current>
__global__ void __launch_bounds__(block_threads)
    scores_kernel(float* target, float* scores, const Moment* second_moment, const float* d_weight, const Base* base,
                  const Current* current, std::int64_t pieces, int sharing, const Squares* squares, int square_count,
                  float rate, MomentFactors factors) {
    __shared__ double partials[block_threads / warp_size];
    if (square_count > 0) rate = scaled_rate(squares, square_count, rate, partials);
    constexpr int parts = group / piece;  // threads that share a group of more than one
    const std::int64_t tiles = ceil_divide(pieces, block_threads);
    for (std::int64_t tile = tiles - 1 - blockIdx.x; tile >= 0; tile -= gridDim.x) {
        const std::int64_t i = tile * block_threads + threadIdx.x;
        float sum = 0;
        float alone[piece];  // the scores of groups of one
        if (i < pieces) {
            float v[piece];
            float g[piece];
            float b[piece];
            float old[piece];
            load_moments<piece, shared>(v, second_moment, i, sharing);
            load_values<piece>(g, d_weight + i * piece);
            load_values<piece>(b, base + i * piece);
            load_values<piece>(old, current + i * piece);
#pragma unroll
            for (int j = 0; j < piece; ++j) {
                b[j] = fmaf(-rate, update_of(g[j], v[j], factors), b[j]);
                const float moved = b[j] - old[j];
                alone[j] = moved * moved;
                sum = fmaf(moved, moved, sum);
            }
            store_values<piece>(target + i * piece, b);
            if constexpr (group == 1) store_values<piece>(scores + i * piece, alone);
        }
        // `pieces` is a multiple of `parts`: the threads of a group are all here or all past the end.
        if constexpr (group > 1) {
            for (int offset = 1; offset < parts; offset *= 2) sum += __shfl_xor_sync(whole_warp, sum, offset);
            if (i < pieces && i % parts == 0) scores[i / parts] = sum;
        }
    }
}

unsigned blocks_for(std::int64_t pieces) {
    return static_cast<unsigned>(std::min<std::int64_t>(ceil_divide(pieces, block_threads), most_blocks));
}

/// Both passes, `piece` weights a thread at a time.
template <int piece, bool shared, class Moment, class Base, class Current>
void start(float* target, float* scores, Moment* second_moment, const float* d_weight, const Base* base,
           const Current* current, std::int64_t count, std::int64_t group, std::int64_t moment_group,
           const VStepRates& rates, Squares* squares, Stream stream) {
    const double beta2 = static_cast<double>(rates.beta2);
    const MomentFactors factors{rates.beta2, rates.epsilon,
                                static_cast<float>(1 / (1 - std::pow(beta2, static_cast<double>(rates.step))))};
    const std::int64_t pieces = count / piece;
    const int sharing = static_cast<int>(moment_group) / piece;
    const unsigned blocks = blocks_for(pieces);
    launch(moments_kernel<piece, shared, Moment, Base>, blocks, block_threads, 0, stream, squares, second_moment,
           d_weight, base, pieces, sharing, factors);
    auto* second_pass = scores_kernel<piece, 1, shared, Moment, Base, Current>;
    if constexpr (piece == whole_piece) {
        if (group == 4) second_pass = scores_kernel<piece, 4, shared, Moment, Base, Current>;
        if (group == 8) second_pass = scores_kernel<piece, 8, shared, Moment, Base, Current>;
        if (group == 16) second_pass = scores_kernel<piece, 16, shared, Moment, Base, Current>;
    }
    launch(second_pass, blocks, block_threads, 0, stream, target, scores, second_moment, d_weight, base, current,
           pieces, sharing, squares, rates.lamb ? static_cast<int>(blocks) : 0, rates.rate, factors);
}

bool known_group(std::int64_t group) { return group == 1 || group == 4 || group == 8 || group == 16; }

}  // namespace

std::size_t moment_and_score_workspace(std::int64_t) { return most_blocks * sizeof(Squares); }

template <class Moment, class Base, class Current>
void moment_and_score(float* target, float* scores, Moment* second_moment, const float* d_weight, const Base* base,
                      const Current* current, std::int64_t count, std::int64_t group, std::int64_t moment_group,
                      const VStepRates& rates, void* workspace, Stream stream) {
    if (!known_group(group) || !known_group(moment_group) || count % group != 0 || count % moment_group != 0) {
        throw std::invalid_argument("scores of groups: " + std::to_string(count) + " weights in groups of " +
                                    std::to_string(group) + ", moments of " + std::to_string(moment_group));
    }
    if (count == 0) return;
    auto* const squares = static_cast<Squares*>(workspace);
    const auto run = [&](auto* passes) {
        passes(target, scores, second_moment, d_weight, base, current, count, group, moment_group, rates, squares,
               stream);
    };
    if (moment_group > 1) {
        if constexpr (std::is_same_v<Moment, float>) return run(start<whole_piece, true, float, Base, Current>);
        throw std::invalid_argument("a second moment of several weights is f32");
    }
    if (count % whole_piece == 0) return run(start<whole_piece, false, Moment, Base, Current>);
    run(start<1, false, Moment, Base, Current>);
}

template void moment_and_score(float*, float*, float*, const float*, const float*, const float*, std::int64_t,
                               std::int64_t, std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, float*, const float*, const float*, const bf16*, std::int64_t,
                               std::int64_t, std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, float*, const float*, const bf16*, const float*, std::int64_t,
                               std::int64_t, std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, float*, const float*, const bf16*, const bf16*, std::int64_t,
                               std::int64_t, std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, bf16*, const float*, const float*, const float*, std::int64_t,
                               std::int64_t, std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, bf16*, const float*, const float*, const bf16*, std::int64_t,
                               std::int64_t, std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, bf16*, const float*, const bf16*, const float*, std::int64_t,
                               std::int64_t, std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, bf16*, const float*, const bf16*, const bf16*, std::int64_t,
                               std::int64_t, std::int64_t, const VStepRates&, void*, Stream);

}  // namespace pvtune::cuda
