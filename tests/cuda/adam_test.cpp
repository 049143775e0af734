#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

AdamSettings as_settings(const AdamRates& rates) {
    return {rates.rate, rates.beta1, rates.beta2, rates.epsilon, rates.lamb, rates.step};
}

void step(const DeviceTensor& value, const DeviceTensor& first, const DeviceTensor& second, const OwnedTensor& gradient,
          const DeviceTensor* copy, const AdamRates& rates) {
    const std::int64_t count = gradient->elements();
    const DeviceWorkspace workspace(adam_workspace(count));
    adam(value.as<float>(), first.as<float>(), second.as<float>(), DeviceTensor(gradient).as<float>(),
         copy != nullptr ? copy->as<bf16>() : nullptr, nullptr, count, rates, workspace.data(), nullptr);
}

// 4096 elements are one block's.
constexpr std::int64_t counts[] = {1, 15, 1000, 4096, 4099, 20011};

TEST(CudaAdam, AgreesWithTheCpuOverSeveralSteps) {
    for_each_schedule([] {
        for (const bool lamb : {false, true}) {
            for (const std::int64_t count : counts) {
                OwnedTensor value = random_tensor(DType::f32, {count}, 1);
                OwnedTensor first(DType::f32, {count});
                OwnedTensor second(DType::f32, {count});
                const DeviceTensor device_value(value);
                const DeviceTensor device_first(first);
                const DeviceTensor device_second(second);
                const DeviceTensor copy(DType::bf16, {count});
                AdamRates rates;
                rates.rate = 0.01F;
                rates.lamb = lamb;
                for (rates.step = 1; rates.step <= 3; ++rates.step) {
                    const auto seed = static_cast<std::uint32_t>(rates.step + 10);
                    const OwnedTensor gradient = random_tensor(DType::f32, {count}, seed);
                    cpu::adam(value, first, second, gradient, as_settings(rates));
                    step(device_value, device_first, device_second, gradient, rates.step == 2 ? nullptr : &copy, rates);
                    // Three steps of a dozen roundings each.
                    EXPECT_LT(relative_error(device_value.download(), values_of(value)), 2e-6) << count;
                    EXPECT_LT(relative_error(device_first.download(), values_of(first)), 1e-6) << count;
                    EXPECT_LT(relative_error(device_second.download(), values_of(second)), 1e-6) << count;
                }
                OwnedTensor rounded(DType::bf16, {count});
                rounded.fill([i = std::size_t{0}, values = values_of(device_value.download())]() mutable {
                    return values[i++];
                });
                EXPECT_TRUE(same_bits(copy.download(), rounded)) << count;
            }
        }
    });
}

TEST(CudaAdam, NothingBreaksAtZero) {
    AdamRates rates;
    rates.rate = 0.5F;
    OwnedTensor gradient(DType::f32, {40});
    const OwnedTensor zeros(DType::f32, {40});
    const DeviceTensor value(zeros);
    const DeviceTensor first(zeros);
    const DeviceTensor second(zeros);
    step(value, first, second, gradient, nullptr, rates);  // no norm at all: nothing moves
    EXPECT_TRUE(same_bits(value.download(), zeros));
    gradient.set(7, 3);
    step(value, first, second, gradient, nullptr, rates);  // a value of norm 0 moves by the plain rate
    const Values moved = values_of(value.download());
    EXPECT_NEAR(moved[7], -0.5, 1e-5);
    EXPECT_EQ(moved[6], 0);
}

TEST(CudaAdam, MovesOnlyWhileTheGateIsFinite) {
    for (const bool lamb : {false, true}) {
        for (const double square : {1.0, static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
            AdamRates rates;
            rates.rate = 0.5F;
            rates.lamb = lamb;
            const OwnedTensor before = random_tensor(DType::f32, {4100}, 1);
            const DeviceTensor value(before);
            const DeviceTensor first(before);
            const DeviceTensor second(OwnedTensor(DType::f32, {4100}));
            const DeviceTensor copy(OwnedTensor(DType::bf16, {4100}));
            OwnedTensor gate(DType::f64, {1});
            *gate->as<double>() = square;
            const DeviceWorkspace workspace(adam_workspace(4100));
            adam(value.as<float>(), first.as<float>(), second.as<float>(),
                 DeviceTensor(random_tensor(DType::f32, {4100}, 2)).as<float>(), copy.as<bf16>(),
                 DeviceTensor(gate).as<double>(), 4100, rates, workspace.data(), nullptr);
            const bool kept = !std::isfinite(square);
            EXPECT_EQ(same_bits(value.download(), before), kept) << square;
            EXPECT_EQ(same_bits(first.download(), before), kept) << square;
            EXPECT_EQ(same_bits(second.download(), OwnedTensor(DType::f32, {4100})), kept) << square;
            EXPECT_EQ(same_bits(copy.download(), OwnedTensor(DType::bf16, {4100})), kept) << square;
        }
    }
}

}  // namespace
}  // namespace pvtune::cuda
