// What the strategies of a V step ask of E8P codes: the nearest other codes of a group, its distance, what a change of
// codes does to the loss.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/e8p_search.h"
#include "host/backend/cpu/quant_ops.h"

#include <cmath>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t group = 8;
constexpr std::int64_t groups_per_chunk = 256;

/// Calls body(i, at, codes) for every groups[i] = at.
template <class Body>
void for_groups(const LatticeCodes& lattice, Tensor groups, const Body& body) {
    const std::int64_t bytes = lattice.codes.dim(2);
    for_chunks(groups.elements(), groups_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t at = groups.as<std::uint32_t>()[i];
            body(i, at, lattice.codes.as<std::uint8_t>() + at * bytes);
        }
    });
}

}  // namespace

void lattice_different(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups) {
    const std::int64_t bytes = lattice.codes.dim(2);
    const float inverse = 1 / *lattice.scale.as<float>();
    for_groups(lattice, groups, [&](std::int64_t i, std::int64_t at, std::uint8_t* codes) {
        if (changed.as<std::uint8_t>()[i] != 0) return;
        float x[group];
        bool usable = true;
        for (std::int64_t j = 0; j < group; ++j) {
            x[j] = target.as<float>()[at * group + j] * inverse;
            usable &= std::isfinite(x[j]);
        }
        if (!usable) return;
        change_one_code(codes, x, bytes);
        changed.as<std::uint8_t>()[i] = 1;
    });
}

void lattice_distance(Tensor distance, const LatticeCodes& lattice, Tensor target, Tensor groups) {
    const std::int64_t bytes = lattice.codes.dim(2);
    const float scale = *lattice.scale.as<float>();
    for_groups(lattice, groups, [&](std::int64_t i, std::int64_t at, const std::uint8_t* codes) {
        float values[group];
        decode_group(values, codes, bytes);
        float sum = 0;
        for (std::int64_t j = 0; j < group; ++j) {
            const float rest = std::fma(-scale, values[j], target.as<float>()[at * group + j]);
            sum = std::fma(rest, rest, sum);
        }
        distance.as<float>()[i] = sum;
    });
}

void lattice_product(Tensor product, const LatticeCodes& lattice, Tensor matrix, Tensor saved, Tensor groups) {
    const std::int64_t bytes = lattice.codes.dim(2);
    const float scale = *lattice.scale.as<float>();
    for_groups(lattice, groups, [&](std::int64_t i, std::int64_t at, const std::uint8_t* codes) {
        float now[group];
        float before[group];
        decode_group(now, codes, bytes);
        decode_group(before, saved.as<std::uint8_t>() + i * bytes, bytes);
        float sum = 0;
        for (std::int64_t j = 0; j < group; ++j) {
            sum = std::fma(matrix.as<float>()[at * group + j], now[j] - before[j], sum);
        }
        product.as<float>()[i] = sum * scale;
    });
}

}  // namespace pvtune::cpu
