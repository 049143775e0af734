// Adam and LAMB on the CPU against the published formulas in double.
#include "host/backend/cpu/quant_ops.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace testing;

struct State {
    Values value, first, second;
};

double norm(const Values& values) { return std::sqrt(dot(values, values)); }

void adam_in_double(State& state, const Values& gradient, const AdamSettings& settings) {
    const auto beta1 = static_cast<double>(settings.beta1);
    const auto beta2 = static_cast<double>(settings.beta2);
    const auto step = static_cast<double>(settings.step);
    Values update(gradient.size());
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        state.first[i] = beta1 * state.first[i] + (1 - beta1) * gradient[i];
        state.second[i] = beta2 * state.second[i] + (1 - beta2) * gradient[i] * gradient[i];
        update[i] = state.first[i] / (1 - std::pow(beta1, step)) /
                    (std::sqrt(state.second[i] / (1 - std::pow(beta2, step))) + static_cast<double>(settings.epsilon));
    }
    double ratio = 1;
    if (settings.lamb && norm(state.value) > 0 && norm(update) > 0) ratio = norm(state.value) / norm(update);
    for (std::size_t i = 0; i < update.size(); ++i) {
        state.value[i] -= static_cast<double>(settings.rate) * ratio * update[i];
    }
}

TEST(Adam, MatchesTheFormulasOverSeveralSteps) {
    for (const bool lamb : {false, true}) {
        for (const std::int64_t count : {1, 15, 1000, 20011}) {
            OwnedTensor value = random_tensor(DType::f32, {count}, 1);
            OwnedTensor first(DType::f32, {count});
            OwnedTensor second(DType::f32, {count});
            State state{values_of(value), values_of(first), values_of(second)};
            for (int step = 1; step <= 4; ++step) {
                const OwnedTensor gradient = random_tensor(DType::f32, {count}, static_cast<std::uint32_t>(step) + 10);
                AdamSettings settings;
                settings.rate = 0.01F;
                settings.lamb = lamb;
                settings.step = step;
                cpu::adam(value, first, second, gradient, settings);
                adam_in_double(state, values_of(gradient), settings);
                EXPECT_LT(relative_error(value, state.value), 2e-6) << count << " step " << step;
                EXPECT_LT(relative_error(first, state.first), 2e-6);
                EXPECT_LT(relative_error(second, state.second), 2e-6);
            }
        }
    }
}

TEST(Adam, LambMovesByTheRateTimesTheNorm) {
    OwnedTensor value = random_tensor(DType::f32, {500}, 2);
    const Values before = values_of(value);
    OwnedTensor first(DType::f32, {500});
    OwnedTensor second(DType::f32, {500});
    AdamSettings settings;
    settings.rate = 0.125F;
    cpu::adam(value, first, second, random_tensor(DType::f32, {500}, 3), settings);
    Values moved = values_of(value);
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i] -= before[i];
    EXPECT_NEAR(norm(moved) / norm(before), 0.125, 1e-5);
}

TEST(Adam, NothingBreaksAtZero) {
    AdamSettings settings;
    settings.rate = 0.5F;
    OwnedTensor value(DType::f32, {40});
    OwnedTensor first(DType::f32, {40});
    OwnedTensor second(DType::f32, {40});
    OwnedTensor gradient(DType::f32, {40});
    cpu::adam(value, first, second, gradient, settings);  // no norm at all: nothing moves
    EXPECT_TRUE(same_bits(value, OwnedTensor(DType::f32, {40})));
    gradient.set(7, 3);
    cpu::adam(value, first, second, gradient, settings);  // a value of norm 0 moves by the plain rate
    EXPECT_NEAR(static_cast<double>(value->as<float>()[7]), -0.5, 1e-5);
    EXPECT_EQ(value->as<float>()[6], 0.0F);
}

TEST(Adam, SameBitsForAnyThreads) {
    for (const bool lamb : {false, true}) {
        expect_same_bits_for_any_threads([&] {
            OwnedTensor value = random_tensor(DType::f32, {50021}, 4);
            OwnedTensor first = random_tensor(DType::f32, {50021}, 5);
            OwnedTensor second = random_tensor(DType::f32, {50021}, 6);
            for (std::int64_t i = 0; i < 50021; ++i) second.set(i, std::abs(second->as<float>()[i]));
            AdamSettings settings;
            settings.rate = 0.01F;
            settings.lamb = lamb;
            settings.step = 3;
            cpu::adam(value, first, second, random_tensor(DType::f32, {50021}, 7), settings);
            return std::vector<OwnedTensor>{value, first, second};
        });
    }
}

TEST(SumOfSquares, MatchesDouble) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const OwnedTensor values = random_tensor(dtype, {3, 11117}, 8);
        const Values host = values_of(values);
        EXPECT_NEAR(cpu::sum_of_squares(values) / dot(host, host), 1, 1e-12);
        double one = 0;
        with_threads(1, [&] { one = cpu::sum_of_squares(values); });
        with_threads(2, [&] { EXPECT_EQ(cpu::sum_of_squares(values), one); });
    }
    EXPECT_EQ(cpu::sum_of_squares(OwnedTensor(DType::f32, {0})), 0);
}

}  // namespace
}  // namespace pvtune
