// The V step on scalar grids: the nearest code of a chosen weight, and how far it moved.
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cpu/scalar_rows.h"

#include <cmath>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t weights_per_chunk = 1024;

}  // namespace

void assign_scalar(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights) {
    const auto highest = static_cast<float>(scalar.levels - 1);
    std::uint8_t* codes = scalar.codes.as<std::uint8_t>();
    for_chunks(weights.elements(), weights_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t at = weights.as<std::uint32_t>()[i];
            const std::int64_t grid = grid_of(scalar, at);
            const float place =
                target.as<float>()[at] / scalar.scales.as<float>()[grid] + scalar.zeros.as<float>()[grid];
            std::uint8_t code = codes[at];
            // Half way between two codes is the lower one's.
            if (std::isfinite(place)) {
                code = static_cast<std::uint8_t>(std::clamp(std::ceil(place - 0.5F), 0.0F, highest));
            }
            changed.as<std::uint8_t>()[i] = code != codes[at];
            codes[at] = code;
        }
    });
}

void scalar_change(Tensor change, const ScalarCodes& scalar, Tensor saved, Tensor weights) {
    const std::uint8_t* codes = scalar.codes.as<std::uint8_t>();
    for_chunks(weights.elements(), weights_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t at = weights.as<std::uint32_t>()[i];
            const int steps = codes[at] - saved.as<std::uint8_t>()[i];
            const float moved = scalar.scales.as<float>()[grid_of(scalar, at)] * static_cast<float>(steps);
            change.as<float>()[i] = moved * moved;
        }
    });
}

}  // namespace pvtune::cpu
