#pragma once

#include <cstdint>
#include <vector>

namespace pvtune {

/// How frequencies are changed to reach beyond the positions a model was first trained on.
enum class RotaryScaling {
    none,
    linear,   ///< all divided by factor
    llama3,   ///< the slow ones divided by factor, the fast ones kept, those between blended
    yarn,     ///< the same with a ramp over the dimensions (Peng et al. 2023)
    longrope  ///< each divided by a factor of its own, of two sets (Ding et al. 2024)
};

/// Rotary positions (Su et al. 2021): elements i and i + dimensions / 2 of a head turn by position * frequency[i].
struct RotaryConfig {
    double theta = 10000;
    std::int64_t dimensions = 0;  ///< of a head that turn: the first ones
    RotaryScaling scaling = RotaryScaling::none;
    double factor = 1;
    double slow_turns = 1;  ///< llama3's low_freq_factor, yarn's beta_slow: fewer turns over the original positions
    double fast_turns = 4;  ///< llama3's high_freq_factor, yarn's beta_fast
    bool truncate = true;   ///< yarn: the ramp begins and ends at whole dimensions
    double amplitude = 1;   ///< cosines and sines are multiplied by it
    std::int64_t original_positions = 0;
    std::vector<double> short_factors;  ///< longrope: of sequences of up to original_positions
    std::vector<double> long_factors;   ///< of longer ones

    bool operator==(const RotaryConfig&) const = default;
};

/// Frequencies [dimensions / 2] for sequences of `length`.
std::vector<float> rotary_frequencies(const RotaryConfig& config, std::int64_t length);

/// cosines and sines [length, dimensions / 2] of the first positions.
struct RotaryValues {
    std::vector<float> cosines, sines;
};
RotaryValues rotary_values(const RotaryConfig& config, std::int64_t length);

}  // namespace pvtune
