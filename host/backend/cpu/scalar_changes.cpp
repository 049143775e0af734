// What the strategies of a V step ask of scalar grids: the nearest other code of a weight, its distance, what a change
// of codes does to the loss, and the change that pays first.
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scalar_rows.h"

#include <cmath>
#include <limits>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t weights_per_chunk = 1024;

/// Calls body(i, at, grid) for every weights[i] = at.
template <class Body>
void for_weights(const ScalarCodes& scalar, Tensor weights, const Body& body) {
    for_chunks(weights.elements(), weights_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t at = weights.as<std::uint32_t>()[i];
            body(i, at, grid_of(scalar, at));
        }
    });
}

}  // namespace

void scalar_different(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights) {
    const auto highest = static_cast<float>(scalar.levels - 1);
    std::uint8_t* codes = scalar.codes.as<std::uint8_t>();
    for_weights(scalar, weights, [&](std::int64_t i, std::int64_t at, std::int64_t grid) {
        if (changed.as<std::uint8_t>()[i] != 0) return;
        const float place = target.as<float>()[at] / scalar.scales.as<float>()[grid] + scalar.zeros.as<float>()[grid];
        if (!std::isfinite(place)) return;
        const float present = codes[at];
        float code = std::clamp(std::ceil(place - 0.5F), 0.0F, highest);
        if (code == present) {
            const bool up = present == 0 || (place > present && present < highest);
            code = up ? present + 1 : present - 1;
        }
        codes[at] = static_cast<std::uint8_t>(code);
        changed.as<std::uint8_t>()[i] = 1;
    });
}

void scalar_distance(Tensor distance, const ScalarCodes& scalar, Tensor target, Tensor weights) {
    for_weights(scalar, weights, [&](std::int64_t i, std::int64_t at, std::int64_t grid) {
        const float steps = static_cast<float>(scalar.codes.as<std::uint8_t>()[at]) - scalar.zeros.as<float>()[grid];
        const float rest = std::fma(-scalar.scales.as<float>()[grid], steps, target.as<float>()[at]);
        distance.as<float>()[i] = rest * rest;
    });
}

void scalar_product(Tensor product, const ScalarCodes& scalar, Tensor matrix, Tensor saved, Tensor weights) {
    for_weights(scalar, weights, [&](std::int64_t i, std::int64_t at, std::int64_t grid) {
        const int steps = scalar.codes.as<std::uint8_t>()[at] - saved.as<std::uint8_t>()[i];
        const float moved = scalar.scales.as<float>()[grid] * static_cast<float>(steps);
        product.as<float>()[i] = matrix.as<float>()[at] * moved;
    });
}

void scalar_eager_score(Tensor scores, Tensor changes, const ScalarCodes& scalar, Tensor gradient, Tensor second_moment,
                        float correction, float epsilon) {
    const std::int64_t columns = scalar.codes.dim(1);
    with_float_type(second_moment.dtype, [&]<class Moment>() {
        const auto score = [&](std::int64_t at, std::int64_t grid) {
            const float scale = scalar.scales.as<float>()[grid];
            const float slope = gradient.as<float>()[at] * scale;
            const int code = scalar.codes.as<std::uint8_t>()[at];
            const int next = slope < 0 ? code + 1 : code - 1;
            const bool descends = (slope < 0 || slope > 0) && next >= 0 && next < scalar.levels;
            // -g Delta / (D Delta^2) with Delta = a step of the grid against the slope.
            const float curvature = std::sqrt(to_float(second_moment.as<Moment>()[at]) * correction) + epsilon;
            const float length = std::fabs(scale) * curvature;
            const bool found = descends && length > 0;
            scores.as<float>()[at] =
                found ? std::fabs(gradient.as<float>()[at]) / length : -std::numeric_limits<float>::infinity();
            changes.as<std::uint32_t>()[at] = static_cast<std::uint32_t>(found ? next : code);
        };
        for_chunks(scalar.codes.dim(0), chunk_count(weights_per_chunk, columns),
                   [&](std::int64_t, std::int64_t first, std::int64_t last) {
                       for_grids(scalar, first, last, [&](std::int64_t grid, std::int64_t begin, std::int64_t end) {
                           for (std::int64_t at = begin; at < end; ++at) score(at, grid);
                       });
                   });
    });
}

}  // namespace pvtune::cpu
