#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

// Two products and a sum, with or without fma: a few units of 2^-24 of values up to 2, then the rounding to bf16, which
// those can tip to the next number.
double tolerance(DType dtype) { return dtype == DType::f32 ? 3e-7 : 0x1p-7; }

template <class T>
void expect_rotations_agree(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim, std::int64_t half,
                            std::int64_t length) {
    const OwnedTensor cosines = random_tensor(DType::f32, {length, half}, 1);
    const OwnedTensor sines = random_tensor(DType::f32, {length, half}, 2);
    const OwnedTensor in = random_tensor(dtype_of<T>, {tokens, heads, head_dim}, 3);
    const DeviceTensor device_cosines(cosines);
    const DeviceTensor device_sines(sines);
    OwnedTensor expected = in;
    const DeviceTensor forward(in);
    cpu::rope_forward(expected, cosines, sines);
    rope_forward(forward.as<T>(), device_cosines.as<float>(), device_sines.as<float>(), tokens, heads, head_dim, half,
                 length, nullptr);
    EXPECT_LT(relative_error(forward.download(), values_of(expected)), tolerance(dtype_of<T>))
        << tokens << " x " << heads << " x " << head_dim;
    expected = in;
    const DeviceTensor backward(in);
    cpu::rope_backward(expected, cosines, sines);
    rope_backward(backward.as<T>(), device_cosines.as<float>(), device_sines.as<float>(), tokens, heads, head_dim, half,
                  length, nullptr);
    EXPECT_LT(relative_error(backward.download(), values_of(expected)), tolerance(dtype_of<T>))
        << tokens << " x " << heads << " x " << head_dim;
}

TEST(CudaRope, AgreesWithTheCpuBothWays) {
    for_each_schedule([] {
        for (const std::int64_t heads : {1, 3, 9}) {
            for (const std::int64_t head_dim : {2, 6, 24, 64, 128}) {
                expect_rotations_agree<float>(14, heads, head_dim, head_dim / 2, 7);  // two sequences of seven
                expect_rotations_agree<bf16>(14, heads, head_dim, head_dim / 2, 7);
            }
        }
    });
}

TEST(CudaRope, LeavesWhatIsNotToTurn) {
    for_each_schedule([] {
        for (const auto& [head_dim, half] : {std::pair{10, 3}, {24, 8}, {36, 16}, {96, 36}, {128, 48}}) {
            expect_rotations_agree<float>(14, 3, head_dim, half, 7);
            expect_rotations_agree<bf16>(14, 3, head_dim, half, 7);
        }
    });
}

TEST(CudaRope, RefusesToTurnMoreThanHeadsHave) {
    EXPECT_THROW(rope_forward<float>(nullptr, nullptr, nullptr, 1, 1, 5, 3, 1, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace pvtune::cuda
