// New E8P codes for chosen groups, and how far groups have moved.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/e8p_search.h"
#include "host/backend/cpu/quant_ops.h"

#include <algorithm>
#include <cmath>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t group = 8;
constexpr std::int64_t groups_per_chunk = 256;
constexpr std::int64_t most_bytes = 4;

}  // namespace

void assign_lattice(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups) {
    const std::int64_t bytes = lattice.codes.dim(2);
    const float scale = *lattice.scale.as<float>();
    const float inverse = 1 / scale;
    auto* codes = lattice.codes.as<std::uint8_t>();
    const auto* weights = target.as<float>();
    for_chunks(groups.elements(), groups_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t at = groups.as<std::uint32_t>()[i];
            float x[group];
            bool usable = true;
            for (std::int64_t j = 0; j < group; ++j) {
                x[j] = weights[at * group + j] * inverse;
                usable &= std::isfinite(x[j]);  // not of a scale of 0 either: there codes do not matter
            }
            std::uint8_t* own = codes + at * bytes;
            std::uint8_t found[most_bytes];
            std::uint8_t changes = 0;
            if (usable) {
                encode_group(found, x, bytes);
                if (group_distance(x, found, bytes) < group_distance(x, own, bytes)) {
                    changes = 1;
                    std::copy_n(found, bytes, own);
                }
            }
            changed.as<std::uint8_t>()[i] = changes;
        }
    });
}

void lattice_change(Tensor change, const LatticeCodes& lattice, Tensor saved, Tensor groups) {
    const std::int64_t bytes = lattice.codes.dim(2);
    const float scale = *lattice.scale.as<float>();
    for_chunks(groups.elements(), groups_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t at = groups.as<std::uint32_t>()[i];
            float before[group];
            decode_group(before, saved.as<std::uint8_t>() + i * bytes, bytes);
            change.as<float>()[i] =
                group_distance(before, lattice.codes.as<std::uint8_t>() + at * bytes, bytes) * scale * scale;
        }
    });
}

}  // namespace pvtune::cpu
