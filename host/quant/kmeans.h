#pragma once

#include "host/backend/backend.h"
#include "host/quant/codebook_fit.h"

namespace pvtune {

struct KMeansSettings {
    int iterations = 8;
    std::uint64_t seed = 0;
};

/// Weighted k-means: sets centroids [size, group] (codebooks.books is 1) and codes [count], the nearest centroids.
/// Seeded by k-means++ (Arthur & Vassilvitskii 2007) on a sample, for many centroids by points drawn at random; each
/// iteration assigns, takes means and gives unused centroids to the points that are farthest. Fewer points than
/// centroids: the rest of the centroids is zero. Assignments are made on the backend's device.
void kmeans(Backend& backend, const WeightedPoints& points, const Codebooks& centroids, std::span<std::uint16_t> codes,
            const KMeansSettings& settings);

}  // namespace pvtune
