#include "host/model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pvtune {

namespace {

// Hugging Face computes frequencies and angles in f32; so do we, to agree with its logits.

/// Llama 3.1: by the wavelengths that fit into the original positions.
float llama3_scaled(const RotaryConfig& config, float frequency) {
    const auto positions = static_cast<float>(config.original_positions);
    const auto factor = static_cast<float>(config.factor);
    const auto slow = static_cast<float>(config.slow_turns);
    const auto fast = static_cast<float>(config.fast_turns);
    const float turns = positions * frequency / (2 * std::numbers::pi_v<float>);
    if (turns < slow) return frequency / factor;
    if (turns > fast) return frequency;
    const float smooth = (turns - slow) / (fast - slow);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

/// YaRN: the dimension at which `turns` turns fit into the original positions.
double yarn_dimension(const RotaryConfig& config, double turns) {
    const auto positions = static_cast<double>(config.original_positions);
    return static_cast<double>(config.dimensions) * std::log(positions / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
}

void scale_yarn(const RotaryConfig& config, std::vector<float>& frequencies) {
    double first = yarn_dimension(config, config.fast_turns);
    double last = yarn_dimension(config, config.slow_turns);
    if (config.truncate) {
        first = std::floor(first);
        last = std::ceil(last);
    }
    first = std::max(first, 0.0);
    last = std::min(last, static_cast<double>(config.dimensions - 1));
    if (first == last) last += 0.001;
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
        const auto ramp = static_cast<float>(std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0));
        frequencies[i] = frequencies[i] / static_cast<float>(config.factor) * ramp + frequencies[i] * (1 - ramp);
    }
}

}  // namespace

std::vector<float> rotary_frequencies(const RotaryConfig& config, std::int64_t length) {
    std::vector<float> frequencies(static_cast<std::size_t>(config.dimensions / 2));
    const std::vector<double>& factors =
        length > config.original_positions ? config.long_factors : config.short_factors;
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
        const auto exponent = static_cast<float>(2 * i) / static_cast<float>(config.dimensions);
        const float wavelength = std::pow(static_cast<float>(config.theta), exponent);
        float& frequency = frequencies[i];
        frequency = 1.0F / wavelength;
        if (config.scaling == RotaryScaling::linear) frequency /= static_cast<float>(config.factor);
        if (config.scaling == RotaryScaling::llama3) frequency = llama3_scaled(config, frequency);
        if (config.scaling == RotaryScaling::longrope) frequency = 1.0F / (static_cast<float>(factors[i]) * wavelength);
    }
    if (config.scaling == RotaryScaling::yarn) scale_yarn(config, frequencies);
    return frequencies;
}

RotaryValues rotary_values(const RotaryConfig& config, std::int64_t length) {
    const std::vector<float> frequencies = rotary_frequencies(config, length);
    const auto amplitude = static_cast<float>(config.amplitude);
    RotaryValues values;
    values.cosines.reserve(static_cast<std::size_t>(length) * frequencies.size());
    values.sines.reserve(values.cosines.capacity());
    for (std::int64_t position = 0; position < length; ++position) {
        for (const float frequency : frequencies) {
            const float angle = static_cast<float>(position) * frequency;
            values.cosines.push_back(amplitude * std::cos(angle));
            values.sines.push_back(amplitude * std::sin(angle));
        }
    }
    return values;
}

}  // namespace pvtune
