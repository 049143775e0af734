// The V step's target and the scores of the groups (PV-Tuning, Malinovskii et al. 2024):
//   v = beta2 v + (1 - beta2) g^2,  u = g / (sqrt(v / (1 - beta2^step)) + epsilon)
//   target = base - rate * r * u,   r = |base| / |u| with LAMB scaling, else 1
//   scores[j] = |target_j - current_j|^2 over the weights of group j
//
// Bound by memory, 16 bytes an element and pass in f32. v is kept in f32 or bf16, and u is that of the v
// that is kept. The first pass updates v and sums the two norms, in f64 and in
// an order that the shape alone decides; every block of the second adds these sums up for itself, so that nothing waits
// for the host, recomputes u and writes target and scores. The second pass runs backwards: what the first one read last
// is still in L2.

#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

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

template <int piece, class Moment, class Base>
__global__ void __launch_bounds__(block_threads)
    moments_kernel(Squares* squares, Moment* second_moment, const float* d_weight, const Base* base,
                   std::int64_t pieces, MomentFactors factors) {
    __shared__ double partials[block_threads / warp_size];
    double base_square = 0;
    double update_square = 0;
    const std::int64_t step = std::int64_t{gridDim.x} * block_threads;
    for (std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x; i < pieces; i += step) {
        float v[piece];
        float g[piece];
        float b[piece];
        load_values<piece>(v, second_moment + i * piece);
        load_values<piece>(g, d_weight + i * piece);
        load_values<piece>(b, base + i * piece);
#pragma unroll
        for (int j = 0; j < piece; ++j) {
            v[j] = to_float(from_float<Moment>(fmaf(factors.beta2, v[j], (1.0F - factors.beta2) * (g[j] * g[j]))));
            const auto u = static_cast<double>(update_of(g[j], v[j], factors));
            update_square = fma(u, u, update_square);
            base_square = fma(static_cast<double>(b[j]), static_cast<double>(b[j]), base_square);
        }
        store_values<piece>(second_moment + i * piece, v);
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
template <int piece, int group, class Moment, class Base, class Current>
__global__ void __launch_bounds__(block_threads)
    scores_kernel(float* target, float* scores, const Moment* second_moment, const float* d_weight, const Base* base,
                  const Current* current, std::int64_t pieces, const Squares* squares, int square_count, float rate,
                  MomentFactors factors) {
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
            load_values<piece>(v, second_moment + i * piece);
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

template <int piece, int group, class Moment, class Base, class Current>
void start_scores(float* target, float* scores, const Moment* second_moment, const float* d_weight, const Base* base,
                  const Current* current, std::int64_t pieces, const Squares* squares, const VStepRates& rates,
                  const MomentFactors& factors, Stream stream) {
    const unsigned blocks = blocks_for(pieces);
    launch(scores_kernel<piece, group, Moment, Base, Current>, blocks, block_threads, 0, stream, target, scores,
           second_moment, d_weight, base, current, pieces, squares, rates.lamb ? static_cast<int>(blocks) : 0,
           rates.rate, factors);
}

/// Both passes, `piece` weights a thread at a time.
template <int piece, class Moment, class Base, class Current>
void start(float* target, float* scores, Moment* second_moment, const float* d_weight, const Base* base,
           const Current* current, std::int64_t count, std::int64_t group, const VStepRates& rates, Squares* squares,
           Stream stream) {
    const double beta2 = static_cast<double>(rates.beta2);
    const MomentFactors factors{rates.beta2, rates.epsilon,
                                static_cast<float>(1 / (1 - std::pow(beta2, static_cast<double>(rates.step))))};
    const std::int64_t pieces = count / piece;
    launch(moments_kernel<piece, Moment, Base>, blocks_for(pieces), block_threads, 0, stream, squares, second_moment,
           d_weight, base, pieces, factors);
    auto* second_pass = start_scores<piece, 1, Moment, Base, Current>;
    if constexpr (piece == whole_piece) {
        if (group == 4) second_pass = start_scores<piece, 4, Moment, Base, Current>;
        if (group == 8) second_pass = start_scores<piece, 8, Moment, Base, Current>;
        if (group == 16) second_pass = start_scores<piece, 16, Moment, Base, Current>;
    }
    second_pass(target, scores, second_moment, d_weight, base, current, pieces, squares, rates, factors, stream);
}

}  // namespace

std::size_t moment_and_score_workspace(std::int64_t) { return most_blocks * sizeof(Squares); }

template <class Moment, class Base, class Current>
void moment_and_score(float* target, float* scores, Moment* second_moment, const float* d_weight, const Base* base,
                      const Current* current, std::int64_t count, std::int64_t group, const VStepRates& rates,
                      void* workspace, Stream stream) {
    if ((group != 1 && group != 4 && group != 8 && group != 16) || count % group != 0) {
        throw std::invalid_argument("scores of groups: " + std::to_string(count) + " weights in groups of " +
                                    std::to_string(group));
    }
    if (count == 0) return;
    auto* const squares = static_cast<Squares*>(workspace);
    const auto run =
        count % whole_piece == 0 ? start<whole_piece, Moment, Base, Current> : start<1, Moment, Base, Current>;
    run(target, scores, second_moment, d_weight, base, current, count, group, rates, squares, stream);
}

template void moment_and_score(float*, float*, float*, const float*, const float*, const float*, std::int64_t,
                               std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, float*, const float*, const float*, const bf16*, std::int64_t,
                               std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, float*, const float*, const bf16*, const float*, std::int64_t,
                               std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, float*, const float*, const bf16*, const bf16*, std::int64_t,
                               std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, bf16*, const float*, const float*, const float*, std::int64_t,
                               std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, bf16*, const float*, const float*, const bf16*, std::int64_t,
                               std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, bf16*, const float*, const bf16*, const float*, std::int64_t,
                               std::int64_t, const VStepRates&, void*, Stream);
template void moment_and_score(float*, float*, bf16*, const float*, const bf16*, const bf16*, std::int64_t,
                               std::int64_t, const VStepRates&, void*, Stream);

}  // namespace pvtune::cuda
