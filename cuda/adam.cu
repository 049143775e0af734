// Adam (Kingma & Ba 2015) with bias correction; as LAMB (You et al. 2020) the update is scaled by |value| / |update|.
// Bound by memory: Adam is one pass of 28 bytes an element, LAMB two passes of 40 bytes together, for the norm of the
// update has to be known before the first element moves and the update is cheaper to compute twice than to store.

#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

#include <cmath>

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;
constexpr int lanes = lanes_of<float>;
constexpr int pieces = 4;  ///< of `lanes` elements a thread
constexpr int block_elements = block_threads * lanes * pieces;
constexpr int reduce_threads = 1024;

struct Factors {
    float beta1, beta2, epsilon;
    float first, second;  ///< bias corrections 1 / (1 - beta^step)
};

struct State {
    float* value;
    float* first;
    float* second;
    const float* gradient;
    bf16* copy;          ///< may be null
    const double* gate;  ///< may be null

    /// Whether anything may change: the difference is NaN where the gate is not finite.
    __device__ bool open() const { return gate == nullptr || *gate - *gate == 0; }
};

__device__ inline float update_of(float first, float second, const Factors& factors) {
    return first * factors.first / (sqrtf(second * factors.second) + factors.epsilon);
}

/// Calls body.operator()<size>(first) for this thread's elements, `lanes` at a time and singly at the end.
template <class Body>
__device__ inline void for_pieces(std::int64_t count, const Body& body) {
    const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * block_elements + threadIdx.x * lanes;
#pragma unroll 1
    for (int i = 0; i < pieces; ++i) {
        const std::int64_t first = begin + i * block_threads * lanes;
        if (first + lanes <= count) {
            body.template operator()<lanes>(first);
        } else {
            for (std::int64_t j = first; j < count; ++j) body.template operator()<1>(j);
        }
    }
}

/// updates = those of elements [first, first + size), whose moments move on.
template <int size>
__device__ inline void move_moments(float (&updates)[size], const State& state, std::int64_t first,
                                    const Factors& factors) {
    float m[size];
    float v[size];
    float g[size];
    load_values<size>(g, state.gradient + first);
    load_values<size>(m, state.first + first);
    load_values<size>(v, state.second + first);
    for (int i = 0; i < size; ++i) {
        m[i] = fmaf(factors.beta1, m[i], (1 - factors.beta1) * g[i]);
        v[i] = fmaf(factors.beta2, v[i], (1 - factors.beta2) * (g[i] * g[i]));
        updates[i] = update_of(m[i], v[i], factors);
    }
    store_values<size>(state.first + first, m);
    store_values<size>(state.second + first, v);
}

template <int size>
__device__ inline void move_values(float (&values)[size], const State& state, std::int64_t first,
                                   const float (&updates)[size], float rate) {
    for (int i = 0; i < size; ++i) values[i] = fmaf(-rate, updates[i], values[i]);
    store_values<size>(state.value + first, values);
    if (state.copy != nullptr) store_values<size>(state.copy + first, values);
}

__global__ void __launch_bounds__(block_threads, 4)
    adam_kernel(State state, std::int64_t count, Factors factors, float rate) {
    if (!state.open()) return;
    for_pieces(count, [&]<int size>(std::int64_t first) {
        float values[size];
        float updates[size];
        load_values<size>(values, state.value + first);
        move_moments(updates, state, first, factors);
        move_values(values, state, first, updates, rate);
    });
}

/// squares[block] = {sum of value^2, sum of update^2}.
__global__ void __launch_bounds__(block_threads)
    lamb_moments_kernel(State state, double2* squares, std::int64_t count, Factors factors) {
    __shared__ double partials[block_threads / warp_size];
    if (!state.open()) return;
    double value_square = 0;
    double update_square = 0;
    for_pieces(count, [&]<int size>(std::int64_t first) {
        float values[size];
        float updates[size];
        load_values<size>(values, state.value + first);
        move_moments(updates, state, first, factors);
        for (int i = 0; i < size; ++i) {
            value_square += static_cast<double>(values[i]) * static_cast<double>(values[i]);
            update_square += static_cast<double>(updates[i]) * static_cast<double>(updates[i]);
        }
    });
    value_square = block_sum(value_square, partials);
    update_square = block_sum(update_square, partials);
    if (threadIdx.x == 0) squares[blockIdx.x] = make_double2(value_square, update_square);
}

/// scaled_rate[0] = rate * |value| / |update|, or rate where one of them is 0.
__global__ void __launch_bounds__(reduce_threads)
    lamb_rate_kernel(float* scaled_rate, const double2* squares, std::int64_t count, float rate) {
    __shared__ double partials[reduce_threads / warp_size];
    double value_square = 0;
    double update_square = 0;
    for (std::int64_t i = threadIdx.x; i < count; i += reduce_threads) {
        value_square += squares[i].x;
        update_square += squares[i].y;
    }
    const double value_norm = sqrt(block_sum(value_square, partials));
    const double update_norm = sqrt(block_sum(update_square, partials));
    const double ratio = value_norm > 0 && update_norm > 0 ? value_norm / update_norm : 1;
    if (threadIdx.x == 0) *scaled_rate = static_cast<float>(static_cast<double>(rate) * ratio);
}

__global__ void __launch_bounds__(block_threads, 4)
    lamb_values_kernel(State state, const float* scaled_rate, std::int64_t count, Factors factors) {
    if (!state.open()) return;
    const float rate = *scaled_rate;
    for_pieces(count, [&]<int size>(std::int64_t first) {
        float values[size];
        float m[size];
        float v[size];
        load_values<size>(values, state.value + first);
        load_values<size>(m, state.first + first);
        load_values<size>(v, state.second + first);
        for (int i = 0; i < size; ++i) m[i] = update_of(m[i], v[i], factors);
        move_values(values, state, first, m, rate);
    });
}

float correction(float beta, std::int64_t step) {
    return static_cast<float>(1 / (1 - std::pow(static_cast<double>(beta), static_cast<double>(step))));
}

}  // namespace

/// Squares of every block, then the scaled rate.
std::size_t adam_workspace(std::int64_t count) {
    return static_cast<std::size_t>(ceil_divide(count, block_elements)) * sizeof(double2) + sizeof(float);
}

void adam(float* value, float* first_moment, float* second_moment, const float* gradient, bf16* copy,
          const double* gate, std::int64_t count, const AdamRates& rates, void* workspace, Stream stream) {
    if (count == 0) return;
    const State state{value, first_moment, second_moment, gradient, copy, gate};
    const Factors factors{rates.beta1, rates.beta2, rates.epsilon, correction(rates.beta1, rates.step),
                          correction(rates.beta2, rates.step)};
    const auto blocks = static_cast<unsigned>(ceil_divide(count, block_elements));
    if (!rates.lamb) {
        launch(adam_kernel, blocks, block_threads, 0, stream, state, count, factors, rates.rate);
        return;
    }
    auto* const squares = static_cast<double2*>(workspace);
    auto* const scaled_rate = reinterpret_cast<float*>(squares + blocks);
    launch(lamb_moments_kernel, blocks, block_threads, 0, stream, state, squares, count, factors);
    launch(lamb_rate_kernel, 1, reduce_threads, 0, stream, scaled_rate, squares, blocks, rates.rate);
    launch(lamb_values_kernel, blocks, block_threads, 0, stream, state, scaled_rate, count, factors);
}

}  // namespace pvtune::cuda
