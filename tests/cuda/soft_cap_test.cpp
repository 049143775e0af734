#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

template <class T>
void expect_agreement(std::int64_t count) {
    constexpr float cap = 2.5F;
    OwnedTensor values = random_tensor(DType::f32, {count}, 1, 9);
    OwnedTensor gradient = random_tensor(dtype_of<T>, {count}, 2);
    const DeviceTensor device_values(values);
    const DeviceTensor device_gradient(gradient);
    cpu::soft_cap_forward(values, cap);
    cpu::soft_cap_backward(gradient, values, cap);
    soft_cap_forward(device_values.as<float>(), cap, count, nullptr);
    soft_cap_backward(device_gradient.as<T>(), device_values.as<float>(), cap, count, nullptr);
    EXPECT_LT(relative_error(device_values.download(), values_of(values)), 1e-6) << count;
    EXPECT_LT(relative_error(device_gradient.download(), values_of(gradient)), tolerance_of(dtype_of<T>)) << count;
}

TEST(CudaSoftCap, AgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t count : {1, 3, 4, 1023, 4133}) {
            expect_agreement<float>(count);
            expect_agreement<bf16>(count);
        }
    });
}

}  // namespace
}  // namespace pvtune::cuda
