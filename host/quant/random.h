#pragma once

#include <cstdint>

namespace pvtune {

/// A counter-based generator (splitmix64, Steele et al. 2014): value i of a seed does not depend on the others.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t next() {
        std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }
    /// In [0, 1).
    double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
    /// In [0, limit).
    std::int64_t below(std::int64_t limit) { return static_cast<std::int64_t>(uniform() * static_cast<double>(limit)); }

private:
    std::uint64_t state_;
};

/// Number i of the seed: cuda/random.cuh has the same, of this and of uniform_at.
inline std::uint64_t bits_at(std::uint64_t seed, std::uint64_t i) {
    return Random(seed + i * 0x9e3779b97f4a7c15ULL).next();
}

/// Number i of the seed, in (0, 1).
inline float uniform_at(std::uint64_t seed, std::uint64_t i) {
    return (static_cast<float>(bits_at(seed, i) >> 41) + 0.5F) * 0x1p-23F;
}

}  // namespace pvtune
