// The V step's target and the scores of the groups (PV-Tuning, Malinovskii et al. 2024):
//   v = beta2 v + (1 - beta2) g^2,  u = g / (sqrt(v / (1 - beta2^step)) + epsilon)
//   target = base - rate * r * u,   r = |base| / |u| with LAMB scaling, else 1
//   scores[j] = |target_j - current_j|^2 over the weights of group j
// With a v for several weights g^2 is their mean.
// The first pass updates v and sums the two norms; the second recomputes u from g and v and writes target and scores.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

#include <cmath>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t chunk_elements = 8192;  // both multiples of every group size
constexpr std::int64_t block_elements = 512;

inline float update_of(float gradient, float second, float correction, float epsilon) {
    return gradient / (std::sqrt(second * correction) + epsilon);
}

template <int moment_group, class Moment, class Base>
void moments_and_updates(float* __restrict updates, float* __restrict values, Moment* __restrict v,
                         const float* __restrict g, const Base* __restrict base, std::int64_t count, float correction,
                         const VStepSettings& settings) {
    const float beta2 = settings.beta2;
    const float epsilon = settings.epsilon;
#pragma omp simd
    for (std::int64_t j = 0; j < count / moment_group; ++j) {
        float square = 0;
        for (int i = 0; i < moment_group; ++i) square += g[j * moment_group + i] * g[j * moment_group + i];
        v[j] = from_float<Moment>(beta2 * to_float(v[j]) + (1 - beta2) * (square * (1.0F / moment_group)));
    }
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
        updates[i] = update_of(g[i], to_float(v[i / moment_group]), correction, epsilon);
        values[i] = to_float(base[i]);
    }
}

/// Updates v; returns r.
template <int moment_group, class Moment, class Base>
double moment_pass(Moment* v, const float* g, const Base* base, std::int64_t count, float correction,
                   const VStepSettings& settings) {
    std::vector<double> base_squares(static_cast<std::size_t>(chunk_count(count, chunk_elements)));
    std::vector<double> update_squares(base_squares.size());
    for_chunks(count, chunk_elements, [&](std::int64_t index, std::int64_t begin, std::int64_t end) {
        double base_square = 0;
        double update_square = 0;
        float updates[block_elements];
        float values[block_elements];
        for (std::int64_t first = begin; first < end; first += block_elements) {
            const std::int64_t size = std::min(block_elements, end - first);
            moments_and_updates<moment_group>(updates, values, v + first / moment_group, g + first, base + first, size,
                                              correction, settings);
            update_square += square_sum(updates, size);
            base_square += square_sum(values, size);
        }
        base_squares[static_cast<std::size_t>(index)] = base_square;
        update_squares[static_cast<std::size_t>(index)] = update_square;
    });
    if (!settings.lamb) return 1;
    const double base_norm = std::sqrt(ordered_sum(base_squares));
    const double update_norm = std::sqrt(ordered_sum(update_squares));
    return base_norm > 0 && update_norm > 0 ? base_norm / update_norm : 1;
}

template <int group, int moment_group, class Moment, class Base, class Current>
void score_pass(float* target, float* scores, const Moment* v, const float* g, const Base* base, const Current* current,
                std::int64_t count, float correction, float epsilon, float rate) {
    for_chunks(count, chunk_elements, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        float squares[block_elements];
        for (std::int64_t first = begin; first < end; first += block_elements) {
            const std::int64_t size = std::min(block_elements, end - first);
#pragma omp simd
            for (std::int64_t i = 0; i < size; ++i) {
                const std::int64_t at = first + i;
                const float old = to_float(current[at]);  // read first: target may be current's buffer
                const float second = to_float(v[at / moment_group]);
                const float moved = to_float(base[at]) - rate * update_of(g[at], second, correction, epsilon);
                target[at] = moved;
                squares[i] = (moved - old) * (moved - old);
            }
            for (std::int64_t j = 0; j < size / group; ++j) {
                float sum = 0;
                for (int i = 0; i < group; ++i) sum += squares[j * group + i];
                scores[first / group + j] = sum;
            }
        }
    });
}

}  // namespace

void moment_and_score(Tensor target, Tensor scores, Tensor second_moment, Tensor d_weight, Tensor base, Tensor current,
                      std::int64_t group, const VStepSettings& settings) {
    const std::int64_t count = target.elements();
    assert(count % group == 0 && scores.elements() == count / group);
    assert(d_weight.elements() == count && base.elements() == count && current.elements() == count);
    const double beta2 = static_cast<double>(settings.beta2);
    const auto correction = static_cast<float>(1 / (1 - std::pow(beta2, static_cast<double>(settings.step))));
    const float* const g = d_weight.as<float>();
    const auto run = [&]<int moment_group, class Moment, class Base>() {
        Moment* const v = second_moment.as<Moment>();
        const double ratio = moment_pass<moment_group>(v, g, base.as<Base>(), count, correction, settings);
        const auto rate = static_cast<float>(static_cast<double>(settings.rate) * ratio);
        with_float_type(current.dtype, [&]<class Current>() {
            const auto score = [&]<int width>() {
                score_pass<width, moment_group>(target.as<float>(), scores.as<float>(), v, g, base.as<Base>(),
                                                current.as<Current>(), count, correction, settings.epsilon, rate);
            };
            if (group == 1) return score.template operator()<1>();
            with_group(group, score);
        });
    };
    const std::int64_t moment_group = count == 0 ? 1 : count / second_moment.elements();
    assert(second_moment.elements() * moment_group == count);
    with_float_type(base.dtype, [&]<class Base>() {
        if (moment_group == 1) {
            return with_float_type(second_moment.dtype,
                                   [&]<class Moment>() { run.template operator()<1, Moment, Base>(); });
        }
        assert(second_moment.dtype == DType::f32);
        with_group(moment_group, [&]<int width>() { run.template operator()<width, float, Base>(); });
    });
}

}  // namespace pvtune::cpu
