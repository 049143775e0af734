#pragma once

#include <cstdint>
#include <span>

namespace pvtune {

/// Vectors to be encoded as sums of codewords: points [count, group], each with a weight >= 0. The objective of all
/// functions here is sum_g weights[g] |points[g] - sum_m codebooks[m, codes[g, m]]|^2.
struct WeightedPoints {
    std::span<const float> points;
    std::span<const float> weights;
    std::int64_t group = 0;

    std::int64_t count() const { return static_cast<std::int64_t>(weights.size()); }
};

/// codebooks [books, size, group].
struct Codebooks {
    std::span<float> values;
    std::int64_t books = 0;
    std::int64_t size = 0;
};

/// The codebooks of least error for the given codes [count, books]; codewords that no code names stay as they are.
/// Solves the normal equations by conjugate gradients where the codewords are few enough for a dense matrix of
/// co-occurrences (one codebook: the means), else by two rounds of means a codebook with the others fixed.
void fit_codebooks(const WeightedPoints& points, const Codebooks& codebooks, std::span<const std::uint16_t> codes);

/// Gives every codeword that no code names to one of the points that are encoded worst: the codeword becomes the one
/// that encodes that point exactly beside its other codes, and the point takes it. Returns how many there were.
std::int64_t reseed_unused(const WeightedPoints& points, const Codebooks& codebooks, std::span<std::uint16_t> codes);

}  // namespace pvtune
