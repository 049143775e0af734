#include "host/quant/scalar_grid.h"

#include "io/dtype.h"

#include <vector>

namespace pvtune {
namespace {

constexpr int clipped_ranges = 14;  ///< of 1, 0.95, .. times the range: 2-bit grids want about half of it
constexpr float clip_step = 0.05F;
constexpr int refits = 4;

/// As it will be stored. Weights too small for 16 bits, zeros among them, get the code 0 of a grid that starts there.
Grid stored(float scale, float zero) {
    constexpr float smallest = 0x1p-24F;
    const float rounded = round_to_f16(scale);
    return rounded > 0 ? Grid{rounded, round_to_f16(zero)} : Grid{smallest, 0};
}

struct Points {
    std::span<const float> weights;
    std::span<const float> importance;

    std::int64_t count() const { return static_cast<std::int64_t>(weights.size()); }
};

float error_of(const Points& points, const Grid& grid, float highest) {
    const float* w = points.weights.data();
    const float* h = points.importance.data();
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < points.count(); ++i) {
        const float rest = w[i] - grid.value(nearest_code(w[i], grid, highest));
        sum += h[i] * rest * rest;
    }
    return sum;
}

/// Least squares for scale and zero with the grid's codes; the grid itself where they say too little.
Grid refit(const Points& points, const Grid& grid, float highest) {
    double total = 0, codes = 0, values = 0;
    for (std::int64_t i = 0; i < points.count(); ++i) {
        const auto h = static_cast<double>(points.importance[static_cast<std::size_t>(i)]);
        const float w = points.weights[static_cast<std::size_t>(i)];
        total += h;
        codes += h * static_cast<double>(nearest_code(w, grid, highest));
        values += h * static_cast<double>(w);
    }
    const double mean_code = codes / total;
    const double mean_value = values / total;
    double variance = 0, covariance = 0;
    for (std::int64_t i = 0; i < points.count(); ++i) {
        const auto h = static_cast<double>(points.importance[static_cast<std::size_t>(i)]);
        const float w = points.weights[static_cast<std::size_t>(i)];
        const double code = static_cast<double>(nearest_code(w, grid, highest)) - mean_code;
        variance += h * code * code;
        covariance += h * code * (static_cast<double>(w) - mean_value);
    }
    const double scale = covariance / variance;
    const auto zero = static_cast<float>(mean_code - mean_value / scale);
    if (!(scale > 0) || !std::isfinite(scale) || !std::isfinite(round_to_f16(zero))) return grid;
    return stored(static_cast<float>(scale), zero);
}

Grid search(const Points& points, std::int64_t levels) {
    const auto highest = static_cast<float>(levels - 1);
    float low = 0;
    float high = 0;
    for (const float w : points.weights) {
        low = std::min(low, w);
        high = std::max(high, w);
    }
    // Halves: the difference of two floats may be beyond them.
    const float scale = (high / 2 - low / 2) / (highest / 2);
    if (!(scale > 0)) return stored(0, 0);
    const float zero = std::clamp(-low / scale, 0.0F, highest);
    Grid best = stored(scale, zero);
    if (!std::isfinite(best.scale)) return best;
    float least = error_of(points, best, highest);
    const auto consider = [&](const Grid& grid) {
        const float error = error_of(points, grid, highest);
        if (!(error < least)) return false;
        best = grid;
        least = error;
        return true;
    };
    for (int i = 1; i < clipped_ranges; ++i) consider(stored(scale * (1 - clip_step * static_cast<float>(i)), zero));
    for (int i = 0; i < refits; ++i) {
        if (!consider(refit(points, best, highest))) break;
    }
    return best;
}

}  // namespace

Grid fit_grid(std::span<const float> weights, std::span<const float> importance, std::int64_t levels) {
    float largest = 0;
    for (const float h : importance) largest = h > largest ? h : largest;
    std::vector<float> shares(weights.size(), 1);
    if (largest > 0 && std::isfinite(largest)) {
        // Columns of next to no importance keep a little: their weights may matter on other texts.
        constexpr float least_share = 1e-6F;
        for (std::size_t i = 0; i < weights.size(); ++i) {
            const float share = importance[i] / largest;
            shares[i] = share > least_share ? share : least_share;
        }
    }
    return search({weights, shares}, levels);
}

}  // namespace pvtune
