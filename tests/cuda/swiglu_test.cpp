#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

template <class T>
struct Gated {
    void (*cpu_forward)(Tensor, Tensor, Tensor);
    void (*cpu_backward)(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor);
    void (*forward)(T*, const T*, const T*, std::int64_t, Stream);
    void (*backward)(T*, T*, T*, const T*, const T*, const T*, std::int64_t, Stream);
};

template <class T>
constexpr Gated<T> swiglu{cpu::swiglu_forward, cpu::swiglu_backward, swiglu_forward, swiglu_backward};
template <class T>
constexpr Gated<T> geglu{cpu::geglu_forward, cpu::geglu_backward, geglu_forward, geglu_backward};

template <class T>
void expect_agreement(const Gated<T>& gated, std::int64_t count) {
    const DType dtype = dtype_of<T>;
    const OwnedTensor gate = random_tensor(dtype, {count}, 1, 6);
    const OwnedTensor up = random_tensor(dtype, {count}, 2);
    const OwnedTensor d_out = random_tensor(dtype, {count}, 3);
    OwnedTensor expected(dtype, {count});
    OwnedTensor expected_gate(dtype, {count});
    OwnedTensor expected_up(dtype, {count});
    gated.cpu_forward(expected, gate, up);
    gated.cpu_backward(expected_gate, expected_up, expected, d_out, gate, up);

    const DeviceTensor device_gate(gate);
    const DeviceTensor device_up(up);
    const DeviceTensor device_d_out(d_out);
    const DeviceTensor out(dtype, {count});
    const DeviceTensor d_gate(dtype, {count});
    const DeviceTensor d_up(dtype, {count});
    const DeviceTensor again(dtype, {count});
    gated.forward(out.as<T>(), device_gate.as<T>(), device_up.as<T>(), count, nullptr);
    gated.backward(d_gate.as<T>(), d_up.as<T>(), again.as<T>(), device_d_out.as<T>(), device_gate.as<T>(),
                   device_up.as<T>(), count, nullptr);
    EXPECT_LT(relative_error(out.download(), values_of(expected)), tolerance_of(dtype)) << count;
    EXPECT_LT(relative_error(d_gate.download(), values_of(expected_gate)), tolerance_of(dtype)) << count;
    EXPECT_LT(relative_error(d_up.download(), values_of(expected_up)), tolerance_of(dtype)) << count;
    EXPECT_TRUE(same_bits(again.download(), out.download())) << count;

    // In place, as a block's backward pass calls it.
    gated.backward(device_gate.as<T>(), device_up.as<T>(), device_d_out.as<T>(), device_d_out.as<T>(),
                   device_gate.as<T>(), device_up.as<T>(), count, nullptr);
    EXPECT_TRUE(same_bits(device_gate.download(), d_gate.download())) << count;
    EXPECT_TRUE(same_bits(device_up.download(), d_up.download())) << count;
    EXPECT_TRUE(same_bits(device_d_out.download(), out.download())) << count;
}

TEST(CudaSwiglu, AgreesWithTheCpuInPlaceToo) {
    for_each_schedule([] {
        for (const std::int64_t count : {1, 3, 4, 8, 1023, 2048, 4133}) {
            expect_agreement(swiglu<float>, count);
            expect_agreement(swiglu<bf16>, count);
            expect_agreement(geglu<float>, count);
            expect_agreement(geglu<bf16>, count);
        }
    });
}

TEST(CudaSwiglu, SaturatesWithoutNan) {
    OwnedTensor gate(DType::f32, {6});
    OwnedTensor ones(DType::f32, {6});
    for (std::int64_t i = 0; i < 6; ++i) {
        gate.set(i, std::vector<double>{-1e4, -100, -88, 88, 100, 1e4}[static_cast<std::size_t>(i)]);
        ones.set(i, 1);
    }
    const DeviceTensor device_gate(gate);
    const DeviceTensor up(ones);
    for (const Gated<float>& gated : {swiglu<float>, geglu<float>}) {
        const DeviceTensor out(DType::f32, {6});
        const DeviceTensor d_gate(DType::f32, {6});
        const DeviceTensor d_up(DType::f32, {6});
        gated.backward(d_gate.as<float>(), d_up.as<float>(), out.as<float>(), up.as<float>(), device_gate.as<float>(),
                       up.as<float>(), 6, nullptr);
        EXPECT_LT(relative_error(out.download(), {0, 0, 0, 88, 100, 1e4}), 1e-7);
        EXPECT_LT(relative_error(d_gate.download(), {0, 0, 0, 1, 1, 1}), 1e-6);
        EXPECT_LT(relative_error(d_up.download(), {0, 0, 0, 88, 100, 1e4}), 1e-7);
    }
}

}  // namespace
}  // namespace pvtune::cuda
