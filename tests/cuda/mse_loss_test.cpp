#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

template <class T>
void expect_agreement(std::int64_t rows, std::int64_t width) {
    const DType dtype = dtype_of<T>;
    constexpr float scale = 0.25F;
    const OwnedTensor out = random_tensor(dtype, {rows, width}, 1);
    const OwnedTensor target = random_tensor(dtype, {rows, width}, 2);
    OwnedTensor losses(DType::f32, {rows});
    OwnedTensor d_out(dtype, {rows, width});
    cpu::mse_loss(losses, d_out, out, target, scale);

    const DeviceTensor device_out(out);
    const DeviceTensor device_target(target);
    const DeviceTensor device_losses(DType::f32, {rows});
    const DeviceTensor device_d_out(dtype, {rows, width});
    const DeviceTensor losses_alone(DType::f32, {rows});
    mse_loss(device_losses.as<float>(), device_d_out.as<T>(), device_out.as<T>(), device_target.as<T>(), rows, width,
             scale, nullptr);
    mse_loss<T>(losses_alone.as<float>(), nullptr, device_out.as<T>(), device_target.as<T>(), rows, width, scale,
                nullptr);
    EXPECT_LT(relative_error(device_losses.download(), values_of(losses)), tolerance_of(DType::f32)) << width;
    EXPECT_LT(relative_error(device_d_out.download(), values_of(d_out)), tolerance_of(dtype)) << width;
    EXPECT_TRUE(same_bits(losses_alone.download(), device_losses.download())) << width;

    // In place, as block-wise tuning may call it.
    mse_loss(device_losses.as<float>(), device_out.as<T>(), device_out.as<T>(), device_target.as<T>(), rows, width,
             scale, nullptr);
    EXPECT_TRUE(same_bits(device_out.download(), device_d_out.download())) << width;
}

TEST(CudaMseLoss, AgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t rows : {1, 9}) {
            for (const std::int64_t width : {1, 7, 64, 130, 520}) {
                expect_agreement<float>(rows, width);
                expect_agreement<bf16>(rows, width);
            }
        }
    });
}

}  // namespace
}  // namespace pvtune::cuda
