#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

template <class T>
void expect_agreement(std::int64_t tokens, std::int64_t width) {
    const OwnedTensor d_out = random_tensor(dtype_of<T>, {tokens, width}, 1);
    OwnedTensor expected = random_tensor(DType::f32, {width}, 2);
    const DeviceTensor d_bias(expected);
    const DeviceWorkspace workspace(column_sum_workspace(tokens, width));
    column_sum(d_bias.as<float>(), DeviceTensor(d_out).as<T>(), tokens, width, workspace.data(), nullptr);
    cpu::column_sum(expected, d_out);
    EXPECT_LT(relative_error(d_bias.download(), values_of(expected)), f32_tolerance) << tokens << " x " << width;
}

TEST(CudaColumnSum, AgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t tokens : {1, 7, 33, 300}) {
            for (const std::int64_t width : {1, 30, 64, 264}) {
                expect_agreement<float>(tokens, width);
                expect_agreement<bf16>(tokens, width);
            }
        }
    });
}

// So many that strips of them are summed first.
TEST(CudaColumnSum, OverManyTokens) {
    for_each_schedule([] {
        for (const std::int64_t width : {3, 40, 264}) {
            expect_agreement<float>(529, width);
            expect_agreement<bf16>(1500, width);
        }
    });
}

TEST(CudaColumnSum, OverMoreTokensThanTheStripsOfOneLength) { expect_agreement<bf16>(20011, 8); }

}  // namespace
}  // namespace pvtune::cuda
