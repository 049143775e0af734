// Frequencies and tables of rotary positions against the formulas in f64.
#include "host/model/rotary.h"

#include <gtest/gtest.h>
#include <cmath>
#include <numbers>

namespace pvtune {
namespace {

constexpr double turn = 2 * std::numbers::pi;

RotaryConfig plain(std::int64_t dimensions, double theta) {
    RotaryConfig config;
    config.dimensions = dimensions;
    config.theta = theta;
    config.original_positions = 8192;
    return config;
}

void expect_near(const std::vector<float>& found, const std::vector<double>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_NEAR(static_cast<double>(found[i]), expected[i], 3e-6 * expected[i]) << i;
    }
}

std::vector<double> frequencies_of(const RotaryConfig& config) {
    std::vector<double> frequencies;
    for (std::int64_t i = 0; i < config.dimensions; i += 2) {
        frequencies.push_back(std::pow(config.theta, -static_cast<double>(i) / static_cast<double>(config.dimensions)));
    }
    return frequencies;
}

TEST(Rotary, LinearDividesEveryFrequency) {
    RotaryConfig config = plain(96, 1e4);
    std::vector<double> expected = frequencies_of(config);
    expect_near(rotary_frequencies(config, 100), expected);
    config.scaling = RotaryScaling::linear;
    config.factor = 8;
    for (double& frequency : expected) frequency /= 8;
    expect_near(rotary_frequencies(config, 100), expected);
}

TEST(Rotary, Llama3KeepsTheFastAndStretchesTheSlow) {
    RotaryConfig config = plain(128, 5e5);
    config.scaling = RotaryScaling::llama3;
    config.factor = 8;
    std::vector<double> expected = frequencies_of(config);
    int kept = 0;
    int blended = 0;
    int stretched = 0;
    for (double& frequency : expected) {
        const double wavelength = turn / frequency;
        if (wavelength < 8192.0 / 4) {
            ++kept;
        } else if (wavelength > 8192) {
            ++stretched;
            frequency /= 8;
        } else {
            ++blended;
            const double smooth = (8192 / wavelength - 1) / 3;
            frequency = (1 - smooth) * frequency / 8 + smooth * frequency;
        }
    }
    EXPECT_GT(kept, 0);
    EXPECT_GT(blended, 0);
    EXPECT_GT(stretched, 0);
    expect_near(rotary_frequencies(config, 100), expected);
}

TEST(Rotary, YarnRampsBetweenTheDimensionsOfItsTwoBounds) {
    RotaryConfig config = plain(64, 1e4);
    config.scaling = RotaryScaling::yarn;
    config.factor = 4;
    config.slow_turns = 1;
    config.fast_turns = 32;
    config.original_positions = 4096;
    const auto dimension = [](double turns) { return 64 * std::log(4096 / (turns * turn)) / (2 * std::log(1e4)); };
    const double first = std::floor(dimension(32));
    const double last = std::ceil(dimension(1));
    std::vector<double> expected = frequencies_of(config);
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const double share = std::min(1.0, std::max(0.0, (static_cast<double>(i) - first) / (last - first)));
        expected[i] *= share / 4 + 1 - share;
    }
    EXPECT_GT(first, 0);
    EXPECT_LT(last, 31);
    expect_near(rotary_frequencies(config, 100), expected);
}

TEST(Rotary, LongRopeTakesTheLongFactorsBeyondTheOriginalPositions) {
    RotaryConfig config = plain(6, 1e4);
    config.scaling = RotaryScaling::longrope;
    config.original_positions = 40;
    config.short_factors = {1, 1.25, 2};
    config.long_factors = {3, 10, 60};
    std::vector<double> within = frequencies_of(config);
    std::vector<double> beyond = within;
    for (std::size_t i = 0; i < within.size(); ++i) {
        within[i] /= config.short_factors[i];
        beyond[i] /= config.long_factors[i];
    }
    expect_near(rotary_frequencies(config, 40), within);
    expect_near(rotary_frequencies(config, 41), beyond);
}

TEST(Rotary, TablesTurnByPositionAndAreScaled) {
    RotaryConfig config = plain(4, 100);
    config.amplitude = 1.5;
    const RotaryValues values = rotary_values(config, 7);
    ASSERT_EQ(values.cosines.size(), 14U);
    for (std::size_t position = 0; position < 7; ++position) {
        for (std::size_t i = 0; i < 2; ++i) {
            const double angle = static_cast<double>(position) * (i == 0 ? 1 : 0.1);
            EXPECT_NEAR(static_cast<double>(values.cosines[position * 2 + i]), 1.5 * std::cos(angle), 1e-6);
            EXPECT_NEAR(static_cast<double>(values.sines[position * 2 + i]), 1.5 * std::sin(angle), 1e-6);
        }
    }
}

}  // namespace
}  // namespace pvtune
