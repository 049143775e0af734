// The codebooks of QuIP# and the search for their nearest points.
#include "cuda/e8p.h"

#include "host/backend/cpu/e8p_search.h"
#include "tests/tensors.h"

#include <set>

namespace pvtune {
namespace {

using namespace pvtune::testing;
using cpu::e8p_points;

constexpr std::int64_t dim = 8;

TEST(E8p, PointsAreThoseOfTheShiftedLattice) {
    const auto& points = e8p_points().quarters;
    ASSERT_EQ(points.size(), 65536U * dim);
    std::set<std::vector<int>> seen;
    std::array<int, 3> table{};  // magnitudes of norm^2 up to 10, of 12, others
    for (std::size_t code = 0; code < 65536; ++code) {
        const std::vector<int> point(points.begin() + static_cast<std::ptrdiff_t>(code * dim),
                                     points.begin() + static_cast<std::ptrdiff_t>((code + 1) * dim));
        seen.insert(point);
        // x - 1/4 is in E8: all whole or all half-integers, with an even sum.
        int sum = 0;
        for (const int value : point) {
            ASSERT_EQ((value - 1) % 2, 0) << code;
            ASSERT_EQ((value - point[0]) % 4, 0) << code;
            sum += value - 1;
        }
        ASSERT_EQ(sum % 8, 0) << code;
        if (code % 256 != 0) continue;
        int norm = 0;  // of D8^, in quarters: every entry's first code has the shift -1/4
        for (const int value : point) norm += (value + 1) * (value + 1);
        ++table[norm <= 160 ? 0 : norm == 192 ? 1 : 2];
    }
    EXPECT_EQ(seen.size(), 65536U);
    EXPECT_EQ(table, (std::array<int, 3>{227, 29, 0}));
}

TEST(E8p, ResidualsAreTheShortestOfE8) {
    const auto& halves = e8p_points().halves;
    ASSERT_EQ(halves.size(), 256U * dim);
    std::set<std::vector<int>> seen;
    std::array<int, 5> norms{};
    for (std::size_t code = 0; code < 256; ++code) {
        const std::vector<int> point(halves.begin() + static_cast<std::ptrdiff_t>(code * dim),
                                     halves.begin() + static_cast<std::ptrdiff_t>((code + 1) * dim));
        seen.insert(point);
        int sum = 0;
        int norm = 0;
        for (const int value : point) {
            ASSERT_EQ((value - point[0]) % 2, 0) << code;
            sum += value;
            norm += value * value;
        }
        ASSERT_EQ(sum % 4, 0) << code;
        ASSERT_LE(norm, 16);
        ++norms[static_cast<std::size_t>(norm / 4)];
    }
    EXPECT_EQ(seen.size(), 256U);
    EXPECT_EQ(norms, (std::array<int, 5>{1, 0, 240, 0, 15}));
}

double distance(const float* x, const std::int8_t* point, double unit) {
    double sum = 0;
    for (int i = 0; i < dim; ++i) {
        const double difference = static_cast<double>(x[i]) - unit * point[i];
        sum += difference * difference;
    }
    return sum;
}

/// The distance of the nearest of all points.
double least_distance(const float* x, const std::vector<std::int8_t>& points, double unit) {
    double least = INFINITY;
    for (std::size_t at = 0; at < points.size(); at += dim)
        least = std::min(least, distance(x, points.data() + at, unit));
    return least;
}

std::vector<float> targets() {
    std::vector<float> x;
    std::mt19937 engine(5);
    std::normal_distribution<float> normal;
    for (const float size : {0.1F, 0.5F, 1.0F, 1.3F, 4.0F}) {
        for (int i = 0; i < 60 * dim; ++i) x.push_back(size * normal(engine));
    }
    // Points of the codebook, and places with many ties: zero, halves of whole numbers.
    for (const std::size_t code : {0UL, 255UL, 4711UL, 65535UL}) {
        for (std::size_t i = 0; i < dim; ++i)
            x.push_back(0.25F * static_cast<float>(e8p_points().quarters[code * dim + i]));
    }
    x.insert(x.end(), 2 * dim, 0.0F);
    for (int i = 0; i < 20 * dim; ++i) x.push_back(0.25F * static_cast<float>(engine() % 9) - 1);
    return x;
}

TEST(E8p, SearchFindsTheNearestOfAllPoints) {
    const std::vector<float> x = targets();
    for (std::size_t at = 0; at < x.size(); at += 3 * dim) {
        const std::uint32_t code = cpu::nearest_e8p(x.data() + at);
        ASSERT_LT(code, 65536U);
        const double found = distance(x.data() + at, e8p_points().quarters.data() + code * dim, 0.25);
        EXPECT_LE(found, least_distance(x.data() + at, e8p_points().quarters, 0.25) * (1 + 1e-6) + 1e-6) << at / dim;
        const std::uint32_t residual = cpu::nearest_residual(x.data() + at);
        const double near = distance(x.data() + at, e8p_points().halves.data() + residual * dim, 0.5);
        EXPECT_LE(near, least_distance(x.data() + at, e8p_points().halves, 0.5) * (1 + 1e-6) + 1e-6) << at / dim;
    }
}

TEST(E8p, PointsEncodeToThemselves) {
    float x[dim];
    for (std::uint32_t code = 0; code < 65536; code += 7) {
        const auto* point = e8p_points().quarters.data() + code * dim;
        for (int i = 0; i < dim; ++i) x[i] = 0.25F * static_cast<float>(point[i]);
        ASSERT_EQ(cpu::nearest_e8p(x), code);
    }
    for (std::uint32_t code = 0; code < 256; ++code) {
        const auto* point = e8p_points().halves.data() + code * dim;
        for (int i = 0; i < dim; ++i) x[i] = 0.5F * static_cast<float>(point[i]);
        ASSERT_EQ(cpu::nearest_residual(x), code);
    }
}

TEST(E8p, TiesAlwaysEndTheSame) {
    // 0 is as far from all points of norm^2 1/2 (all coordinates 1/4 or -1/4 about): the first shift, the lowest entry.
    const float zero[dim] = {};
    const std::uint32_t code = cpu::nearest_e8p(zero);
    EXPECT_EQ(code & 1U, 0U);
    EXPECT_EQ(code >> 8, 0U);
    EXPECT_EQ(cpu::nearest_residual(zero), 0U);
}

TEST(E8p, GroupsOfTwoThreeAndFourBits) {
    const std::vector<float> x = targets();
    double errors[5] = {};
    double norm = 0;
    for (std::size_t at = 0; at < x.size(); at += dim) {
        if (at / dim >= 120 && at / dim < 180) norm += distance(x.data() + at, e8p_points().halves.data(), 0);
        for (const std::int64_t bytes : {2, 3, 4}) {
            std::uint8_t codes[4];
            cpu::encode_group(codes, x.data() + at, bytes);
            float values[dim];
            cpu::decode_group(values, codes, bytes);
            // Decoded as documented, from the points themselves.
            const auto first = static_cast<std::size_t>(codes[0] | codes[1] << 8);
            EXPECT_EQ(first, cpu::nearest_e8p(x.data() + at));
            double squares = 0;
            for (std::size_t i = 0; i < dim; ++i) {
                double value = 0.25 * e8p_points().quarters[first * dim + i];
                if (bytes == 3) value += 0.5 * e8p_points().halves[codes[2] * std::size_t{dim} + i] / 2.04;
                if (bytes == 4) {
                    const auto second = static_cast<std::size_t>(codes[2] | codes[3] << 8);
                    value += 0.25 * e8p_points().quarters[second * dim + i] / 3.45;
                }
                ASSERT_NEAR(static_cast<double>(values[i]), value, 1e-6);
                squares += std::pow(static_cast<double>(x[at + i]) - value, 2);
            }
            EXPECT_NEAR(static_cast<double>(cpu::group_distance(x.data() + at, codes, bytes)), squares,
                        1e-5 * squares + 1e-6);
            if (at / dim >= 120 && at / dim < 180) errors[bytes] += squares;
        }
    }
    // Unit Gaussians: the paper's E8P loses 0.09 of the variance at 2 bits.
    EXPECT_LT(errors[2] / norm, 0.105);
    EXPECT_LT(errors[3] / norm, 0.032);
    EXPECT_LT(errors[4] / norm, 0.010);
}

}  // namespace
}  // namespace pvtune
