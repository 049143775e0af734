#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

VStepRates rates_of(const VStepSettings& settings) {
    return {settings.rate, settings.beta2, settings.epsilon, settings.lamb, settings.step};
}

struct Step {
    OwnedTensor target, scores, second;
};

/// Calls body(pointer of the tensor's type).
template <class Body>
void with_pointer(Tensor tensor, Body&& body) {
    if (tensor.dtype == DType::f32) return body(tensor.as<float>());
    body(tensor.as<bf16>());
}

/// A step on the device. base: "target" starts in target's buffer, "current" is current's, else one of its own.
enum class BaseBuffer { own, target, current };
Step on_device(const OwnedTensor& second, const OwnedTensor& gradient, const OwnedTensor& base,
               const OwnedTensor& current, std::int64_t group, const VStepSettings& settings,
               BaseBuffer buffer = BaseBuffer::own) {
    const std::int64_t count = gradient->elements();
    const DeviceTensor device_second(second);
    const DeviceTensor device_gradient(gradient);
    const DeviceTensor own_base(base);
    const DeviceTensor device_current(current);
    const DeviceTensor own_target(DType::f32, {count});
    const DeviceTensor& device_base = buffer == BaseBuffer::current ? device_current : own_base;
    const DeviceTensor& target = buffer == BaseBuffer::target ? own_base : own_target;
    const DeviceTensor scores(DType::f32, {count / group});
    const DeviceWorkspace workspace(moment_and_score_workspace(count));
    const float* const g = device_gradient.as<float>();
    with_pointer(device_second.tensor(), [&](auto* v) {
        with_pointer(device_base.tensor(), [&](const auto* from) {
            with_pointer(device_current.tensor(), [&](const auto* now) {
                moment_and_score(target.as<float>(), scores.as<float>(), v, g, from, now, count, group,
                                 count / second->elements(), rates_of(settings), workspace.data(), nullptr);
            });
        });
    });
    return {target.download(), scores.download(), device_second.download()};
}

Step on_cpu(const OwnedTensor& second, const OwnedTensor& gradient, const OwnedTensor& base, const OwnedTensor& current,
            std::int64_t group, const VStepSettings& settings) {
    const std::int64_t count = gradient->elements();
    Step step{OwnedTensor(DType::f32, {count}), OwnedTensor(DType::f32, {count / group}), second};
    cpu::moment_and_score(step.target, step.scores, step.second, gradient, base, current, group, settings);
    return step;
}

// A few roundings of 2^-24 each; r is a ratio of sums in f64.
constexpr double tolerance = 2e-6;

void expect_equal(const Step& got, const Step& expected, double allowed = tolerance) {
    EXPECT_LT(relative_error(got.second, values_of(expected.second)), allowed);
    EXPECT_LT(relative_error(got.target, values_of(expected.target)), allowed);
    EXPECT_LT(relative_error(got.scores, values_of(expected.scores)), allowed);
}

TEST(CudaMomentAndScore, MatchesTheCpu) {
    for (const std::int64_t count : {16, 1040, 16 * 617}) {
        const OwnedTensor gradient = random_tensor(DType::f32, {count}, 1);
        OwnedTensor second(DType::f32, {count});
        second.fill([next = 0]() mutable { return 0.1 + 0.001 * (++next % 7); });
        for (const std::int64_t group : {4, 8, 16}) {
            for (const bool lamb : {true, false}) {
                for (const DType base_type : {DType::f32, DType::bf16}) {
                    for (const DType current_type : {DType::f32, DType::bf16}) {
                        const OwnedTensor base = random_tensor(base_type, {count}, 2);
                        const OwnedTensor current = random_tensor(current_type, {count}, 3);
                        VStepSettings settings;
                        settings.rate = 0.05F;
                        settings.lamb = lamb;
                        settings.step = 3;
                        expect_equal(on_device(second, gradient, base, current, group, settings),
                                     on_cpu(second, gradient, base, current, group, settings));
                    }
                }
            }
        }
    }
}

TEST(CudaMomentAndScore, GroupsOfOneWeightAndOddCounts) {
    for (const std::int64_t count : {1, 1040, 1043}) {
        const OwnedTensor gradient = random_tensor(DType::f32, {count}, 1);
        for (const DType type : {DType::f32, DType::bf16}) {
            const OwnedTensor base = random_tensor(type, {count}, 2);
            const OwnedTensor current = random_tensor(type, {count}, 3);
            const OwnedTensor second(DType::f32, {count});
            expect_equal(on_device(second, gradient, base, current, 1, {}),
                         on_cpu(second, gradient, base, current, 1, {}));
            const OwnedTensor half(DType::bf16, {count});
            expect_equal(on_device(half, gradient, base, current, 1, {}), on_cpu(half, gradient, base, current, 1, {}),
                         8e-3);
        }
    }
}

TEST(CudaMomentAndScore, TheMomentMayBeBf16) {
    constexpr std::int64_t count = 16 * 333;
    const OwnedTensor gradient = random_tensor(DType::f32, {count}, 1);
    OwnedTensor second(DType::bf16, {count});
    second.fill([next = 0]() mutable { return 0.1 + 0.001 * (++next % 7); });
    for (const DType base_type : {DType::f32, DType::bf16}) {
        for (const DType current_type : {DType::f32, DType::bf16}) {
            const OwnedTensor base = random_tensor(base_type, {count}, 2);
            const OwnedTensor current = random_tensor(current_type, {count}, 3);
            // Where the CPU's v lies between two bf16, the last bit of its f32 sum decides: 2^-8 of v, half that of u.
            expect_equal(on_device(second, gradient, base, current, 8, {}),
                         on_cpu(second, gradient, base, current, 8, {}), 8e-3);
        }
    }
}

TEST(CudaMomentAndScore, AMomentMayStandForSeveralWeights) {
    for (const std::int64_t count : {16, 1040, 16 * 617}) {
        const OwnedTensor gradient = random_tensor(DType::f32, {count}, 1);
        const OwnedTensor current = random_tensor(DType::bf16, {count}, 3);
        for (const std::int64_t moment_group : {4, 8, 16}) {
            OwnedTensor second(DType::f32, {count / moment_group});
            second.fill([next = 0]() mutable { return 0.1 + 0.001 * (++next % 7); });
            for (const std::int64_t group : {std::int64_t{1}, moment_group}) {
                for (const DType base_type : {DType::f32, DType::bf16}) {
                    const OwnedTensor base = random_tensor(base_type, {count}, 2);
                    const Step expected = on_cpu(second, gradient, base, current, group, {});
                    for_each_schedule(
                        [&] { expect_equal(on_device(second, gradient, base, current, group, {}), expected); });
                }
            }
        }
    }
}

TEST(CudaMomentAndScore, SeveralTilesABlock) {
    constexpr std::int64_t count = 4 * 256 * 792 + 16 * 37;  // a tile more than there are blocks, and a part of one
    const OwnedTensor gradient = random_tensor(DType::f32, {count}, 1);
    const OwnedTensor base = random_tensor(DType::f32, {count}, 2);
    const OwnedTensor current = random_tensor(DType::bf16, {count}, 3);
    const OwnedTensor second = random_tensor(DType::f32, {count}, 4, 0);
    expect_equal(on_device(second, gradient, base, current, 8, {}), on_cpu(second, gradient, base, current, 8, {}));
}

TEST(CudaMomentAndScore, SameBitsInAnyOrder) {
    constexpr std::int64_t count = 4 * 256 * 30 + 16 * 37;
    const OwnedTensor gradient = random_tensor(DType::f32, {count}, 1);
    const OwnedTensor base = random_tensor(DType::f32, {count}, 2);
    const OwnedTensor current = random_tensor(DType::f32, {count}, 3);
    const OwnedTensor second(DType::f32, {count});
    Step first;
    for_each_schedule([&] {
        const Step got = on_device(second, gradient, base, current, 16, {});
        if (first.target->empty()) first = got;
        EXPECT_TRUE(same_bits(got.target, first.target));
        EXPECT_TRUE(same_bits(got.scores, first.scores));
        EXPECT_TRUE(same_bits(got.second, first.second));
    });
}

TEST(CudaMomentAndScore, BaseMayBeTargetOrCurrent) {
    constexpr std::int64_t count = 16 * 333;
    const OwnedTensor gradient = random_tensor(DType::f32, {count}, 1);
    const OwnedTensor base = random_tensor(DType::f32, {count}, 2);
    const OwnedTensor current = random_tensor(DType::f32, {count}, 3);
    const OwnedTensor second(DType::f32, {count});
    for_each_schedule([&] {
        const Step apart = on_device(second, gradient, base, current, 8, {});
        const Step in_target = on_device(second, gradient, base, current, 8, {}, BaseBuffer::target);
        EXPECT_TRUE(same_bits(in_target.target, apart.target));
        EXPECT_TRUE(same_bits(in_target.scores, apart.scores));
        const Step restarted = on_device(second, gradient, current, current, 8, {});
        const Step in_current = on_device(second, gradient, base, current, 8, {}, BaseBuffer::current);
        EXPECT_TRUE(same_bits(in_current.target, restarted.target));
        EXPECT_TRUE(same_bits(in_current.scores, restarted.scores));
    });
}

TEST(CudaMomentAndScore, ZeroGradientsMoveNothing) {
    const OwnedTensor base = random_tensor(DType::f32, {48}, 9);
    const Step got = on_device(OwnedTensor(DType::f32, {48}), OwnedTensor(DType::f32, {48}), base, base, 8, {});
    EXPECT_TRUE(same_bits(got.target, base));
    EXPECT_TRUE(same_bits(got.scores, OwnedTensor(DType::f32, {6})));
}

TEST(CudaMomentAndScore, WhatIsNotFiniteShows) {
    const OwnedTensor base = random_tensor(DType::f32, {48}, 9);
    OwnedTensor gradient = random_tensor(DType::f32, {48}, 10);
    gradient.set(17, NAN);
    const Step got = on_device(OwnedTensor(DType::f32, {48}), gradient, base, base, 8, {});
    EXPECT_FALSE(std::isfinite(got.scores->as<float>()[2]));
}

TEST(CudaMomentAndScore, RefusesWhatItDoesNotCover) {
    const auto call = [](std::int64_t count, std::int64_t group) {
        float* const none = nullptr;
        const float* const no_base = nullptr;
        moment_and_score(none, none, none, none, no_base, no_base, count, group, 1, {}, nullptr, nullptr);
    };
    EXPECT_THROW(call(24, 6), std::invalid_argument);
    EXPECT_THROW(call(20, 8), std::invalid_argument);
    EXPECT_THROW(call(20, 2), std::invalid_argument);
    EXPECT_NO_THROW(call(0, 8));
}

}  // namespace
}  // namespace pvtune::cuda
