#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

template <class T>
double device_sum(const OwnedTensor& values) {
    const std::int64_t count = values->elements();
    const DeviceTensor device(values);
    const DeviceTensor sum(DType::f64, {1});
    const DeviceWorkspace workspace(sum_of_squares_workspace(count));
    sum_of_squares(sum.as<double>(), device.as<T>(), count, workspace.data(), nullptr);
    return values_of(sum.download())[0];
}

TEST(CudaSumOfSquares, AgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t count : {0, 1, 7, 8, 300, 4096, 8193, 50021}) {
            const OwnedTensor values = random_tensor(DType::f32, {count}, 1);
            EXPECT_NEAR(device_sum<float>(values), cpu::sum_of_squares(values), 1e-12 * static_cast<double>(count));
            const OwnedTensor halves = random_tensor(DType::bf16, {count}, 1);
            EXPECT_NEAR(device_sum<bf16>(halves), cpu::sum_of_squares(halves), 1e-12 * static_cast<double>(count));
        }
    });
}

TEST(CudaSumOfSquares, IsFiniteExactlyWhenEveryValueIs) {
    OwnedTensor values(DType::f32, {5000});
    for (const std::int64_t at : {0, 4097, 4999}) {
        values.set(at, 3e38);
        EXPECT_TRUE(std::isfinite(device_sum<float>(values)));
        values.set(at, INFINITY);
        EXPECT_FALSE(std::isfinite(device_sum<float>(values)));
        values.set(at, NAN);
        EXPECT_FALSE(std::isfinite(device_sum<float>(values)));
        values.set(at, 0);
    }
}

TEST(CudaCountFlags, CountsWhatIsNotZero) {
    for_each_schedule([] {
        for (const std::int64_t count : {0, 1, 15, 16, 4096, 30011}) {
            OwnedTensor flags(DType::u8, {count});
            std::uint32_t expected = 0;
            for (std::int64_t i = 0; i < count; ++i) {
                const auto flag = static_cast<std::uint8_t>(i % 7 == 3 ? 128 + i % 128 : i % 3 == 0);
                flags->as<std::uint8_t>()[i] = flag;
                expected += flag != 0 ? 1 : 0;
            }
            const DeviceTensor total(DType::u32, {1});
            count_flags(total.as<std::uint32_t>(), DeviceTensor(flags).as<std::uint8_t>(), count, nullptr);
            EXPECT_EQ(values_of(total.download())[0], expected) << count;
        }
    });
}

}  // namespace
}  // namespace pvtune::cuda
