// The V step's target, scores and choice of groups on the CPU against plain loops.
#include "host/backend/cpu/quant_ops.h"
#include "tests/tensors.h"

#include <limits>
#include <numeric>

namespace pvtune {
namespace {

using namespace testing;

struct Expected {
    Values target, scores, second;
};

Expected in_double(const Values& gradient, Values second, const Values& base, const Values& current, std::int64_t group,
                   const VStepSettings& settings, std::size_t moment_group = 1) {
    const auto beta2 = static_cast<double>(settings.beta2);
    const double correction = 1 - std::pow(beta2, static_cast<double>(settings.step));
    Values update(gradient.size());
    for (std::size_t j = 0; j < second.size(); ++j) {
        second[j] *= beta2;
        for (std::size_t i = j * moment_group; i < (j + 1) * moment_group; ++i) {
            second[j] += (1 - beta2) * gradient[i] * gradient[i] / static_cast<double>(moment_group);
        }
    }
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        const double deviation = std::sqrt(second[i / moment_group] / correction);
        update[i] = gradient[i] / (deviation + static_cast<double>(settings.epsilon));
    }
    const double lengths = std::sqrt(dot(base, base) / dot(update, update));
    const double rate = static_cast<double>(settings.rate) * (settings.lamb ? lengths : 1);
    Expected out{base, Values(gradient.size() / static_cast<std::size_t>(group)), second};
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        out.target[i] -= rate * update[i];
        const double difference = out.target[i] - current[i];
        out.scores[i / static_cast<std::size_t>(group)] += difference * difference;
    }
    return out;
}

TEST(MomentAndScore, MatchesLoops) {
    for (const std::int64_t group : {1, 4, 8, 16}) {
        for (const bool lamb : {true, false}) {
            for (const DType base_type : {DType::f32, DType::bf16}) {
                for (const DType current_type : {DType::f32, DType::bf16}) {
                    const std::int64_t rows = 37;
                    const std::int64_t columns = group == 1 ? 461 : 16 * 29;
                    OwnedTensor target(DType::f32, {rows, columns});
                    OwnedTensor scores(DType::f32, {rows * columns / group});
                    OwnedTensor second(DType::f32, {rows, columns});
                    const OwnedTensor gradient = random_tensor(DType::f32, {rows, columns}, 1);
                    const OwnedTensor base = random_tensor(base_type, {rows, columns}, 2);
                    const OwnedTensor current = random_tensor(current_type, {rows, columns}, 3);
                    second.fill([next = 0]() mutable { return 0.1 + 0.001 * (++next % 7); });
                    VStepSettings settings;
                    settings.rate = 0.05F;
                    settings.lamb = lamb;
                    settings.step = 3;
                    const Expected expected = in_double(values_of(gradient), values_of(second), values_of(base),
                                                        values_of(current), group, settings);
                    cpu::moment_and_score(target, scores, second, gradient, base, current, group, settings);
                    EXPECT_LT(relative_error(target, expected.target), 2e-6);
                    EXPECT_LT(relative_error(scores, expected.scores), 2e-6);
                    EXPECT_LT(relative_error(second, expected.second), 2e-6);
                }
            }
        }
    }
}

TEST(MomentAndScore, AMomentMayStandForSeveralWeights) {
    for (const std::int64_t moment_group : {4, 8, 16}) {
        for (const std::int64_t group : {std::int64_t{1}, moment_group}) {
            for (const DType base_type : {DType::f32, DType::bf16}) {
                const OwnedTensor gradient = random_tensor(DType::f32, {37, 464}, 1);
                const OwnedTensor base = random_tensor(base_type, {37, 464}, 2);
                const OwnedTensor current = random_tensor(DType::bf16, {37, 464}, 3);
                OwnedTensor second(DType::f32, {37, 464 / moment_group});
                second.fill([next = 0]() mutable { return 0.1 + 0.001 * (++next % 7); });
                OwnedTensor target(DType::f32, {37, 464});
                OwnedTensor scores(DType::f32, {37 * 464 / group});
                VStepSettings settings;
                settings.rate = 0.05F;
                settings.step = 3;
                const Expected expected =
                    in_double(values_of(gradient), values_of(second), values_of(base), values_of(current), group,
                              settings, static_cast<std::size_t>(moment_group));
                cpu::moment_and_score(target, scores, second, gradient, base, current, group, settings);
                EXPECT_LT(relative_error(target, expected.target), 2e-6);
                EXPECT_LT(relative_error(scores, expected.scores), 2e-6);
                EXPECT_LT(relative_error(second, expected.second), 2e-6);
            }
        }
    }
}

TEST(MomentAndScore, BaseMayBeTargetOrCurrent) {
    const OwnedTensor gradient = random_tensor(DType::f32, {30, 640}, 4);
    const OwnedTensor start = random_tensor(DType::f32, {30, 640}, 5);
    const OwnedTensor current = random_tensor(DType::f32, {30, 640}, 6);
    OwnedTensor target(DType::f32, {30, 640});
    OwnedTensor second(DType::f32, {30, 640});
    OwnedTensor scores(DType::f32, {2400});
    cpu::moment_and_score(target, scores, second, gradient, start, current, 8, {});
    OwnedTensor buffer = start;
    OwnedTensor other_second(DType::f32, {30, 640});
    OwnedTensor other_scores(DType::f32, {2400});
    cpu::moment_and_score(buffer, other_scores, other_second, gradient, buffer, current, 8, {});
    EXPECT_TRUE(same_bits(buffer, target));
    EXPECT_TRUE(same_bits(other_scores, scores));

    OwnedTensor restart(DType::f32, {30, 640});
    OwnedTensor restart_second(DType::f32, {30, 640});
    cpu::moment_and_score(restart, other_scores, restart_second, gradient, current, current, 8, {});
    const Expected expected =
        in_double(values_of(gradient), Values(30 * 640), values_of(current), values_of(current), 8, {});
    EXPECT_LT(relative_error(restart, expected.target), 2e-6);
    EXPECT_LT(relative_error(other_scores, expected.scores), 1e-4);  // squares of differences that cancel
}

TEST(MomentAndScore, ABf16MomentIsUsedAsItIsStored) {
    const OwnedTensor gradient = random_tensor(DType::f32, {3, 720}, 14);
    const OwnedTensor base = random_tensor(DType::f32, {3, 720}, 15);
    const OwnedTensor before = random_tensor(DType::f32, {3, 720}, 16);
    OwnedTensor second(DType::bf16, {3, 720});
    const Values positive = values_of(before);
    for (std::size_t i = 0; i < positive.size(); ++i) second.set(static_cast<std::int64_t>(i), std::abs(positive[i]));
    const Values old = values_of(second);
    OwnedTensor target(DType::f32, {3, 720});
    OwnedTensor scores(DType::f32, {270});
    VStepSettings settings;
    settings.lamb = false;
    settings.step = 3;
    cpu::moment_and_score(target, scores, second, gradient, base, base, 8, settings);

    const Values g = values_of(gradient);
    const Values stored = values_of(second);
    const Values start = values_of(base);
    const Values moved = values_of(target);
    const auto beta2 = static_cast<double>(settings.beta2);
    for (std::size_t i = 0; i < g.size(); ++i) {
        const double exact = beta2 * old[i] + (1 - beta2) * g[i] * g[i];
        EXPECT_NEAR(stored[i], exact, exact * 0x1p-8) << "half a unit in the last place of bf16 is 2^-9";
        const double u =
            g[i] / (std::sqrt(stored[i] / (1 - std::pow(beta2, 3))) + static_cast<double>(settings.epsilon));
        EXPECT_NEAR(moved[i], start[i] - static_cast<double>(settings.rate) * u, 1e-6);
    }
}

TEST(MomentAndScore, SameBitsForAnyThreads) {
    expect_same_bits_for_any_threads([] {
        OwnedTensor target(DType::f32, {100, 320});
        OwnedTensor scores(DType::f32, {4000});
        OwnedTensor second(DType::f32, {100, 320});
        const OwnedTensor base = random_tensor(DType::f32, {100, 320}, 7);
        cpu::moment_and_score(target, scores, second, random_tensor(DType::f32, {100, 320}, 8), base, base, 8, {});
        return std::vector<OwnedTensor>{target, scores, second};
    });
}

TEST(MomentAndScore, ZeroGradientsMoveNothing) {
    OwnedTensor target(DType::f32, {2, 16});
    OwnedTensor scores(DType::f32, {4});
    OwnedTensor second(DType::f32, {2, 16});
    const OwnedTensor base = random_tensor(DType::f32, {2, 16}, 9);
    cpu::moment_and_score(target, scores, second, OwnedTensor(DType::f32, {2, 16}), base, base, 8, {});
    EXPECT_TRUE(same_bits(target, base));
    EXPECT_TRUE(same_bits(scores, OwnedTensor(DType::f32, {4})));
}

TEST(SelectLargest, MatchesASort) {
    std::mt19937 engine(10);
    for (const std::int64_t groups : {1, 2, 100, 4099}) {
        for (const int kinds : {1, 3, 50, 1 << 20}) {  // few kinds of scores: many ties
            OwnedTensor scores(DType::f32, {groups});
            scores.fill([&] {
                return static_cast<double>(engine() % static_cast<unsigned>(kinds)) * 1e-3 - (kinds == 50 ? 0.02 : 0);
            });
            std::vector<std::uint32_t> order(static_cast<std::size_t>(groups));
            std::iota(order.begin(), order.end(), 0U);
            std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
                return scores->as<float>()[a] > scores->as<float>()[b];
            });
            for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, groups / 100, groups / 2, groups}) {
                OwnedTensor indices(DType::u32, {count});
                cpu::select_largest(indices, scores);
                std::vector<std::uint32_t> expected(order.begin(), order.begin() + count);
                std::sort(expected.begin(), expected.end());
                for (std::int64_t i = 0; i < count; ++i) {
                    ASSERT_EQ(indices->as<std::uint32_t>()[i], expected[static_cast<std::size_t>(i)]);
                }
            }
        }
    }
}

TEST(SelectLargest, StrangeScores) {
    const float infinity = std::numeric_limits<float>::infinity();
    const float values[] = {NAN, -infinity, -0.0F, 0.0F, -1.0F, infinity, -NAN, 1e-45F};
    OwnedTensor scores(DType::f32, {8});
    for (int i = 0; i < 8; ++i) scores->as<float>()[i] = values[i];
    const std::vector<std::vector<std::uint32_t>> expected = {
        {5}, {5, 7}, {2, 5, 7}, {2, 3, 5, 7}, {2, 3, 4, 5, 7}, {1, 2, 3, 4, 5, 7}, {0, 1, 2, 3, 4, 5, 7}};
    for (const auto& indices : expected) {
        OwnedTensor out(DType::u32, {static_cast<std::int64_t>(indices.size())});
        cpu::select_largest(out, scores);
        for (std::size_t i = 0; i < indices.size(); ++i) EXPECT_EQ(out->as<std::uint32_t>()[i], indices[i]);
    }
}

}  // namespace
}  // namespace pvtune
