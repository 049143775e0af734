// Adam (Kingma & Ba 2015) with bias correction; as LAMB (You et al. 2020) the update is scaled by |value| / |update|.
// Bound by memory: Adam is one pass of 28 bytes an element, LAMB two passes of 40 bytes together, for the norm of the
// update has to be known before the first element moves and the update is cheaper to compute twice than to store.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

#include <cmath>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t chunk_elements = 8192;
constexpr std::int64_t block_elements = 512;

struct Corrections {
    float first = 1;   ///< 1 / (1 - beta1^step)
    float second = 1;  ///< 1 / (1 - beta2^step)
};

Corrections corrections(const AdamSettings& settings) {
    const auto step = static_cast<double>(settings.step);
    return {static_cast<float>(1 / (1 - std::pow(static_cast<double>(settings.beta1), step))),
            static_cast<float>(1 / (1 - std::pow(static_cast<double>(settings.beta2), step)))};
}

inline float update_of(float first, float second, const Corrections& correction, float epsilon) {
    return first * correction.first / (std::sqrt(second * correction.second) + epsilon);
}

void moments_and_updates(float* __restrict updates, float* __restrict m, float* __restrict v, const float* __restrict g,
                         std::int64_t count, const Corrections& correction, const AdamSettings& settings) {
    const float beta1 = settings.beta1;
    const float beta2 = settings.beta2;
    const float epsilon = settings.epsilon;
    const Corrections factors = correction;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
        const float first = beta1 * m[i] + (1 - beta1) * g[i];
        const float second = beta2 * v[i] + (1 - beta2) * (g[i] * g[i]);
        m[i] = first;
        v[i] = second;
        updates[i] = update_of(first, second, factors, epsilon);
    }
}

}  // namespace

void adam(Tensor value, Tensor first_moment, Tensor second_moment, Tensor gradient, const AdamSettings& settings) {
    const std::int64_t count = value.elements();
    assert(first_moment.elements() == count && second_moment.elements() == count && gradient.elements() == count);
    float* const p = value.as<float>();
    float* const m = first_moment.as<float>();
    float* const v = second_moment.as<float>();
    const float* const g = gradient.as<float>();
    const Corrections correction = corrections(settings);
    const float beta1 = settings.beta1;
    const float beta2 = settings.beta2;
    const float epsilon = settings.epsilon;
    const float rate = settings.rate;

    if (!settings.lamb) {
        for_chunks(count, chunk_elements, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
#pragma omp simd
            for (std::int64_t i = begin; i < end; ++i) {
                m[i] = beta1 * m[i] + (1 - beta1) * g[i];
                v[i] = beta2 * v[i] + (1 - beta2) * (g[i] * g[i]);
                p[i] -= rate * update_of(m[i], v[i], correction, epsilon);
            }
        });
        return;
    }

    std::vector<double> value_squares(static_cast<std::size_t>(chunk_count(count, chunk_elements)));
    std::vector<double> update_squares(value_squares.size());
    for_chunks(count, chunk_elements, [&](std::int64_t index, std::int64_t begin, std::int64_t end) {
        double value_square = 0;
        double update_square = 0;
        float updates[block_elements];  // kept for a block, so that the sums in f64 are a loop of their own
        for (std::int64_t first = begin; first < end; first += block_elements) {
            const std::int64_t size = std::min(block_elements, end - first);
            moments_and_updates(updates, m + first, v + first, g + first, size, correction, settings);
            update_square += square_sum(updates, size);
            value_square += square_sum(p + first, size);
        }
        value_squares[static_cast<std::size_t>(index)] = value_square;
        update_squares[static_cast<std::size_t>(index)] = update_square;
    });
    const double value_norm = std::sqrt(ordered_sum(value_squares));
    const double update_norm = std::sqrt(ordered_sum(update_squares));
    const double ratio = value_norm > 0 && update_norm > 0 ? value_norm / update_norm : 1;
    const auto scaled_rate = static_cast<float>(static_cast<double>(rate) * ratio);
    for_chunks(count, chunk_elements, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) p[i] -= scaled_rate * update_of(m[i], v[i], correction, epsilon);
    });
}

}  // namespace pvtune::cpu
