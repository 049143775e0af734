#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

constexpr float cap = 2.5F;

double capped(double value) { return static_cast<double>(cap) * std::tanh(value / static_cast<double>(cap)); }

TEST(SoftCap, ForwardAndBackwardAgreeWithPlainLoops) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t count : {1, 5, 33, 2310}) {
            OwnedTensor values = random_tensor(DType::f32, {count}, 1, 9);
            OwnedTensor gradient = random_tensor(dtype, {count}, 2);
            const Values before = values_of(values);
            const Values d_out = values_of(gradient);
            Values expected;
            Values expected_gradient;
            constexpr double step = 1e-5;
            for (std::size_t i = 0; i < before.size(); ++i) {
                expected.push_back(capped(before[i]));
                expected_gradient.push_back(d_out[i] * (capped(before[i] + step) - capped(before[i] - step)) /
                                            (2 * step));
            }
            soft_cap_forward(values, cap);
            EXPECT_LT(relative_error(values, expected), 1e-6);
            soft_cap_backward(gradient, values, cap);
            EXPECT_LT(relative_error(gradient, expected_gradient), tolerance_of(dtype));
        }
    }
}

/// Each value by itself: tanh y is y near zero, where exponentials cancel.
TEST(SoftCap, SmallValuesKeepTheirDigits) {
    OwnedTensor values(DType::f32, {400});
    for (std::int64_t i = 0; i < 400; ++i) values.set(i, std::pow(-1, i) * std::pow(10, -i * 0.02));
    const Values before = values_of(values);
    soft_cap_forward(values, cap);
    for (std::size_t i = 0; i < before.size(); ++i) {
        EXPECT_NEAR(values_of(values)[i] / capped(before[i]), 1, 5e-7) << before[i];
    }
}

TEST(SoftCap, LargeValuesMeetTheCap) {
    OwnedTensor values(DType::f32, {4});
    OwnedTensor gradient(DType::f32, {4});
    const Values large = {-1e30, -1e3, 1e3, 1e30};
    for (std::int64_t i = 0; i < 4; ++i) {
        values.set(i, large[static_cast<std::size_t>(i)]);
        gradient.set(i, 1);
    }
    soft_cap_forward(values, cap);
    EXPECT_LT(relative_error(values, {-2.5, -2.5, 2.5, 2.5}), 1e-7);
    soft_cap_backward(gradient, values, cap);
    for (const double slope : values_of(gradient)) EXPECT_EQ(slope, 0);
}

}  // namespace
}  // namespace pvtune::cpu
