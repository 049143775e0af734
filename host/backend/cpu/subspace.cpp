// Which groups a V step searches and which of their changes stay, for any representation: numbers by chance are those
// of (seed, group), so that runs repeat.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/quant/random.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace pvtune::cpu {
namespace {

constexpr std::int64_t chunk_groups = 8192;

}  // namespace

void bound_changes(Tensor keep, Tensor change, Tensor scores, Tensor groups, Tensor weight_squares, double trust_ratio,
                   std::int64_t most) {
    const auto count = static_cast<std::size_t>(groups.elements());
    const auto* group = groups.as<std::uint32_t>();
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return scores.as<float>()[group[a]] > scores.as<float>()[group[b]];
    });
    double budget = change.empty() ? 0 : trust_ratio * trust_ratio * *weight_squares.as<double>();
    for (const std::size_t i : order) {
        std::uint8_t& kept = keep.as<std::uint8_t>()[i];
        if (!change.empty()) budget -= static_cast<double>(change.as<float>()[i]);
        const bool counted = kept != 0;
        if (!(budget >= 0) || most <= 0) kept = 0;
        if (counted) --most;
    }
}

void sampling_keys(Tensor keys, Tensor scores, float inverse_temperature, std::uint64_t seed) {
    for_chunks(scores.elements(), chunk_groups, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t j = begin; j < end; ++j) {
            const float gumbel = -std::log(-std::log(uniform_at(seed, static_cast<std::uint64_t>(j))));
            const float weight = inverse_temperature > 0 ? inverse_temperature * std::log(scores.as<float>()[j]) : 0;
            keys.as<float>()[j] = weight + gumbel;
        }
    });
}

void round_robin(Tensor indices, std::int64_t first, std::int64_t groups) {
    for (std::int64_t i = 0; i < indices.elements(); ++i) {
        indices.as<std::uint32_t>()[i] = static_cast<std::uint32_t>((first + i) % groups);
    }
}

void score_histogram(Tensor histogram, Tensor scores) {
    auto* const bins = histogram.as<std::uint32_t>();
    std::fill_n(bins, histogram.elements(), 0U);
    for (std::int64_t j = 0; j < scores.elements(); ++j) {
        const float score = scores.as<float>()[j];
        if (score >= 0) ++bins[std::bit_cast<std::uint32_t>(score + 0.0F) >> 21];
    }
}

void scatter_difference(Tensor scores, Tensor before, Tensor after, Tensor groups) {
    for (std::int64_t i = 0; i < groups.elements(); ++i) {
        scores.as<float>()[groups.as<std::uint32_t>()[i]] = before.as<float>()[i] - after.as<float>()[i];
    }
}

void keep_by_chance(Tensor keep, Tensor nearest, Tensor second, Tensor groups, float temperature, std::uint64_t seed) {
    const float power = 0.5F / temperature;  // of squared distances
    for_chunks(groups.elements(), chunk_groups, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const float odds = std::exp(power * std::log(second.as<float>()[i] / nearest.as<float>()[i]));
            const float chance = 1 / (1 + odds);  // 0 at a distance of 0; a NaN keeps the nearest
            keep.as<std::uint8_t>()[i] = uniform_at(seed, groups.as<std::uint32_t>()[i]) < chance ? 1 : 0;
        }
    });
}

void rows_differ(Tensor differ, Tensor a, Tensor b) {
    const std::int64_t rows = differ.elements();
    const auto bytes = static_cast<std::size_t>(rows > 0 ? a.bytes() / rows : 0);
    for (std::int64_t i = 0; i < rows; ++i) {
        const std::size_t at = static_cast<std::size_t>(i) * bytes;
        differ.as<std::uint8_t>()[i] = std::memcmp(a.data + at, b.data + at, bytes) != 0 ? 1 : 0;
    }
}

void note_returns(Tensor returned, Tensor history, Tensor now, Tensor before, Tensor groups) {
    const std::int64_t rows = groups.elements();
    const auto bytes = static_cast<std::size_t>(rows > 0 ? now.bytes() / rows : 0);
    for (std::int64_t i = 0; i < rows; ++i) {
        const std::size_t at = static_cast<std::size_t>(i) * bytes;
        std::byte* const earlier = history.data + groups.as<std::uint32_t>()[i] * bytes;
        const bool changed = std::memcmp(now.data + at, before.data + at, bytes) != 0;
        returned.as<std::uint8_t>()[i] = changed && std::memcmp(now.data + at, earlier, bytes) == 0 ? 1 : 0;
        if (changed) std::memcpy(earlier, before.data + at, bytes);
    }
}

}  // namespace pvtune::cpu
