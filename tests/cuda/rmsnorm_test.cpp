#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

constexpr float epsilon = 1e-3F;

// Narrow rows have a warp, wider ones a block; 16 bytes at a time where the width allows.
constexpr std::int64_t widths[] = {1, 30, 64, 576, 1031, 1032};

template <class T>
void expect_forward_agrees(std::int64_t tokens, std::int64_t width) {
    const OwnedTensor in = random_tensor(dtype_of<T>, {tokens, width}, 1);
    const OwnedTensor weight = random_tensor(DType::f32, {width}, 2);
    OwnedTensor expected(dtype_of<T>, {tokens, width});
    OwnedTensor expected_inverse(DType::f32, {tokens});
    cpu::rmsnorm_forward(expected, expected_inverse, in, weight, epsilon);
    const DeviceTensor out(dtype_of<T>, {tokens, width});
    const DeviceTensor inverse_rms(DType::f32, {tokens});
    rmsnorm_forward(out.as<T>(), inverse_rms.as<float>(), DeviceTensor(in).as<T>(), DeviceTensor(weight).as<float>(),
                    tokens, width, epsilon, nullptr);
    EXPECT_LT(relative_error(out.download(), values_of(expected)), tolerance_of(dtype_of<T>))
        << tokens << " x " << width;
    EXPECT_LT(relative_error(inverse_rms.download(), values_of(expected_inverse)), f32_tolerance);
}

TEST(CudaRmsNorm, ForwardAgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t width : widths) {
            expect_forward_agrees<float>(9, width);
            expect_forward_agrees<bf16>(9, width);
        }
    });
    expect_forward_agrees<float>(1, 64);
    expect_forward_agrees<bf16>(1, 1031);
}

// Against plain loops in double: on the CPU a row is one chain of f32 sums.
template <class T>
void expect_forward_agrees_with_double(std::int64_t width) {
    const OwnedTensor in = random_tensor(dtype_of<T>, {1, width}, 1);
    const OwnedTensor weight = random_tensor(DType::f32, {width}, 2);
    const DeviceTensor out(dtype_of<T>, {1, width});
    const DeviceTensor inverse_rms(DType::f32, {1});
    rmsnorm_forward(out.as<T>(), inverse_rms.as<float>(), DeviceTensor(in).as<T>(), DeviceTensor(weight).as<float>(), 1,
                    width, epsilon, nullptr);
    const Values x = values_of(in);
    const double inverse = 1 / std::sqrt(dot(x, x) / static_cast<double>(width) + static_cast<double>(epsilon));
    Values expected = values_of(weight);
    for (std::size_t i = 0; i < x.size(); ++i) expected[i] *= x[i] * inverse;
    EXPECT_LT(relative_error(out.download(), expected), tolerance_of(dtype_of<T>)) << width;
    EXPECT_LT(relative_error(inverse_rms.download(), {inverse}), 1e-6) << width;
}

TEST(CudaRmsNorm, ForwardOfTheWidestRows) {
    expect_forward_agrees_with_double<float>(16384);
    expect_forward_agrees_with_double<bf16>(32768);
    expect_forward_agrees_with_double<bf16>(8191);
}

struct Operands {
    std::int64_t tokens, width;
    OwnedTensor in, weight, d_out, inverse_rms, d_in, d_weight;
    Operands(DType dtype, std::int64_t tokens_, std::int64_t width_)
        : tokens(tokens_),
          width(width_),
          in(random_tensor(dtype, {tokens, width}, 1)),
          weight(random_tensor(DType::f32, {width}, 2)),
          d_out(random_tensor(dtype, {tokens, width}, 3)),
          inverse_rms(DType::f32, {tokens}),
          d_in(random_tensor(dtype, {tokens, width}, 4)),
          d_weight(random_tensor(DType::f32, {width}, 5)) {
        OwnedTensor out(dtype, {tokens, width});
        cpu::rmsnorm_forward(out, inverse_rms, in, weight, epsilon);
    }
};

template <class T>
void expect_backward_agrees(std::int64_t tokens, std::int64_t width) {
    Operands o(dtype_of<T>, tokens, width);
    const DeviceTensor d_in(o.d_in);
    const DeviceTensor d_in_alone(o.d_in);
    const DeviceTensor d_weight(o.d_weight);
    const DeviceTensor d_out(o.d_out);
    const DeviceTensor in(o.in);
    const DeviceTensor weight(o.weight);
    const DeviceTensor inverse_rms(o.inverse_rms);
    const DeviceWorkspace workspace(rmsnorm_backward_workspace(tokens, width));
    rmsnorm_backward(d_in.as<T>(), d_weight.as<float>(), d_out.as<T>(), in.as<T>(), weight.as<float>(),
                     inverse_rms.as<float>(), tokens, width, workspace.data(), nullptr);
    rmsnorm_backward<T>(d_in_alone.as<T>(), nullptr, d_out.as<T>(), in.as<T>(), weight.as<float>(),
                        inverse_rms.as<float>(), tokens, width, nullptr, nullptr);
    cpu::rmsnorm_backward(o.d_in, o.d_weight, o.d_out, o.in, o.weight, o.inverse_rms);
    EXPECT_LT(relative_error(d_in.download(), values_of(o.d_in)), tolerance_of(dtype_of<T>))
        << tokens << " x " << width;
    // Operands are as given and sums are f32: no bf16 error here.
    EXPECT_LT(relative_error(d_weight.download(), values_of(o.d_weight)), f32_tolerance) << tokens << " x " << width;
    EXPECT_TRUE(same_bits(d_in.download(), d_in_alone.download()));
}

TEST(CudaRmsNorm, BackwardAgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t width : widths) {
            expect_backward_agrees<float>(19, width);
            expect_backward_agrees<bf16>(19, width);
        }
    });
    expect_backward_agrees<float>(1, 64);
    expect_backward_agrees<bf16>(1, 1031);
}

// More tokens than strips have under way at once, narrow rows and wide: some warps or blocks have two, some one.
TEST(CudaRmsNorm, BackwardOverManyTokens) {
    expect_backward_agrees<bf16>(4300, 8);
    expect_backward_agrees<float>(531, 516);
}

TEST(CudaRmsNorm, BackwardOfTheWidestRows) {
    expect_backward_agrees<float>(2, 8192);
    expect_backward_agrees<bf16>(2, 16384);
    expect_backward_agrees<float>(2, 4095);
}

TEST(CudaRmsNorm, RefusesRowsThatItsRegistersDoNotHold) {
    EXPECT_THROW(rmsnorm_forward<float>(nullptr, nullptr, nullptr, nullptr, 1, 16388, 0, nullptr),
                 std::invalid_argument);
    EXPECT_THROW(
        rmsnorm_backward<bf16>(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1, 16392, nullptr, nullptr),
        std::invalid_argument);
}

TEST(CudaRmsNorm, SumsDoNotHangOnTheWorkspacesContent) {
    const Operands o(DType::f32, 40, 70);
    std::vector<OwnedTensor> results;
    for (int run = 0; run < 2; ++run) {
        const DeviceTensor d_in(o.d_in);
        const DeviceTensor d_weight(o.d_weight);
        const DeviceWorkspace workspace(rmsnorm_backward_workspace(40, 70));
        if (run == 1) check(cudaMemset(workspace.data(), 0, workspace.bytes()), "a fill of device memory");
        rmsnorm_backward(d_in.as<float>(), d_weight.as<float>(), DeviceTensor(o.d_out).as<float>(),
                         DeviceTensor(o.in).as<float>(), DeviceTensor(o.weight).as<float>(),
                         DeviceTensor(o.inverse_rms).as<float>(), 40, 70, workspace.data(), nullptr);
        results.push_back(d_weight.download());
    }
    EXPECT_TRUE(same_bits(results[0], results[1]));
}

}  // namespace
}  // namespace pvtune::cuda
