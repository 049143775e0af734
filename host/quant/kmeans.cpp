#include "host/quant/kmeans.h"

#include "host/backend/cpu/chunks.h"
#include "host/common/index_of.h"
#include "host/quant/device_search.h"
#include "host/quant/random.h"

#include <limits>
#include <numeric>

namespace pvtune {
namespace {

/// `wanted` different points with a weight above 0, in random order; fewer when there are fewer.
std::vector<std::int64_t> sample_points(const WeightedPoints& points, std::int64_t wanted, Random& random) {
    std::vector<std::int64_t> sample;
    for (std::int64_t g = 0; g < points.count(); ++g) {
        if (points.weights[index_of(g)] > 0) sample.push_back(g);
    }
    const auto available = static_cast<std::int64_t>(sample.size());
    wanted = std::min(wanted, available);
    for (std::int64_t i = 0; i < wanted; ++i) {
        std::swap(sample[index_of(i)], sample[index_of(i + random.below(available - i))]);
    }
    sample.resize(index_of(wanted));
    return sample;
}

/// k-means++ on a sample: each centroid is a point drawn with probability by weight and squared distance to the nearest
/// centroid before it.
template <int group>
void seed_plus_plus(const WeightedPoints& points, const Codebooks& centroids, const std::vector<std::int64_t>& sample,
                    Random& random) {
    const auto count = static_cast<std::int64_t>(sample.size());
    std::vector<float> columns(index_of(count * group));  // [group, count]
    std::vector<float> weights(index_of(count));
    std::vector<float> distances(index_of(count), std::numeric_limits<float>::max());
    for (std::int64_t s = 0; s < count; ++s) {
        weights[index_of(s)] = points.weights[index_of(sample[index_of(s)])];
        for (int i = 0; i < group; ++i) {
            columns[index_of(i * count + s)] = points.points[index_of(sample[index_of(s)] * group + i)];
        }
    }
    std::int64_t drawn = random.below(count);
    for (std::int64_t k = 0; k < centroids.size; ++k) {
        float* centroid = centroids.values.data() + k * group;
        for (int i = 0; i < group; ++i) centroid[i] = columns[index_of(i * count + drawn)];
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (std::int64_t s = 0; s < count; ++s) {
            float sum = 0;
            for (int i = 0; i < group; ++i) {
                const float difference = columns[index_of(i * count + s)] - centroid[i];
                sum += difference * difference;
            }
            const float least = sum < distances[index_of(s)] ? sum : distances[index_of(s)];
            distances[index_of(s)] = least;
            total += least * weights[index_of(s)];
        }
        if (!(total > 0)) return;  // every point of the sample is a centroid
        double left = random.uniform() * static_cast<double>(total);
        drawn = 0;
        for (std::int64_t s = 0; s < count; ++s) {
            const auto share = static_cast<double>(distances[index_of(s)] * weights[index_of(s)]);
            if (share > 0) drawn = s;
            left -= share;
            if (left < 0) break;
        }
    }
}

}  // namespace

void kmeans(Backend& backend, const WeightedPoints& points, const Codebooks& centroids, std::span<std::uint16_t> codes,
            const KMeansSettings& settings) {
    constexpr std::int64_t most_plus_plus = 1024;  // seeding costs centroids * sample
    constexpr std::int64_t sample_per_centroid = 16;
    Random random(settings.seed);
    const bool plus_plus = centroids.size <= most_plus_plus;
    const auto sample =
        sample_points(points, plus_plus ? centroids.size * sample_per_centroid : centroids.size, random);
    std::fill(centroids.values.begin(), centroids.values.end(), 0.0F);
    std::fill(codes.begin(), codes.end(), std::uint16_t{0});
    if (sample.empty()) return;
    with_group(points.group, [&]<int group>() {
        if (plus_plus && static_cast<std::int64_t>(sample.size()) > centroids.size) {
            return seed_plus_plus<group>(points, centroids, sample, random);
        }
        for (std::size_t k = 0; k < std::min(sample.size(), index_of(centroids.size)); ++k) {
            std::copy_n(points.points.begin() + sample[k] * group, group,
                        centroids.values.begin() + static_cast<std::int64_t>(k) * group);
        }
    });
    const auto assign = [&] { search_codes(backend, points, centroids, codes, 1, 1); };
    assign();
    for (int iteration = 0; iteration < settings.iterations; ++iteration) {
        fit_codebooks(points, centroids, codes);
        reseed_unused(points, centroids, codes);
        assign();
    }
}

}  // namespace pvtune
