// The kernels on scalar grids: dequantize_scalar, scalar_gemv, scalar_gradient, assign_scalar, scalar_change.
#include "tests/scalar_matrix.h"

#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_scalar.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

TEST(CudaDequantizeScalar, HasTheBitsOfTheCpu) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix matrix(shape, 1);
        const DeviceScalar device(matrix);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            OwnedTensor expected(dtype, {shape.rows, shape.columns});
            cpu::dequantize_scalar(expected, matrix.scalar());
            for_each_schedule([&] {
                const DeviceTensor weight(dtype, {shape.rows, shape.columns});
                if (dtype == DType::f32) dequantize_scalar(weight.as<float>(), device.view(), nullptr);
                if (dtype == DType::bf16) dequantize_scalar(weight.as<bf16>(), device.view(), nullptr);
                EXPECT_TRUE(same_bits(weight.download(), expected)) << name_of(dtype);
            });
        }
    }
}

template <class T>
void expect_product(const ScalarShape& shape, bool with_bias, double tolerance) {
    const ScalarMatrix matrix(shape, 2);
    const DeviceScalar device(matrix);
    const OwnedTensor in = random_tensor(dtype_of<T>, {shape.columns}, 3);
    const OwnedTensor bias = random_tensor(DType::f32, {shape.rows}, 4);
    OwnedTensor oracle(dtype_of<T>, {shape.rows});
    cpu::scalar_gemv(oracle, in, matrix.scalar(), with_bias ? Tensor(bias) : Tensor());
    const DeviceTensor device_in(in), device_bias(bias);
    for_each_schedule([&] {
        const DeviceTensor out(dtype_of<T>, {shape.rows});
        scalar_gemv(out.as<T>(), device_in.as<T>(), with_bias ? device_bias.as<float>() : nullptr, device.view(),
                    nullptr);
        EXPECT_LT(relative_error(out.download(), values_of(oracle)), tolerance);
    });
}

TEST(CudaScalarGemv, MatchesTheCpu) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        expect_product<float>(shape, true, f32_tolerance);
        expect_product<bf16>(shape, false, bf16_tolerance);
    }
}

TEST(CudaScalarGradient, MatchesTheCpu) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix matrix(shape, 5);
        const DeviceScalar device(matrix);
        OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, shape.columns}, 6);
        OwnedTensor d_scales(DType::f32, {shape.rows, shape.grids()}), d_zeros = d_scales;
        cpu::scalar_gradient(d_scales, d_zeros, d_weight, matrix.scalar());
        const DeviceTensor gradient(d_weight);
        OwnedTensor first;
        for_each_schedule([&] {
            const DeviceTensor scales(DType::f32, {shape.rows, shape.grids()});
            const DeviceTensor zeros(DType::f32, {shape.rows, shape.grids()});
            scalar_gradient(scales.as<float>(), zeros.as<float>(), gradient.as<float>(), device.view(), nullptr);
            const OwnedTensor got = scales.download();
            EXPECT_LT(relative_error(got, values_of(d_scales)), f32_tolerance);
            EXPECT_LT(relative_error(zeros.download(), values_of(d_zeros)), f32_tolerance);
            if (first->empty()) first = got;
            EXPECT_TRUE(same_bits(got, first));
        });
    }
}

TEST(CudaScalarGradient, WhatIsNotFiniteShows) {
    const ScalarShape shape{2, 64, 32, 3};
    const DeviceScalar device(ScalarMatrix(shape, 7));
    OwnedTensor d_weight(DType::f32, {2, 64});
    d_weight.set(40, NAN);
    const DeviceTensor gradient(d_weight), scales(DType::f32, {2, 2}), zeros(DType::f32, {2, 2});
    scalar_gradient(scales.as<float>(), zeros.as<float>(), gradient.as<float>(), device.view(), nullptr);
    EXPECT_TRUE(std::isnan(scales.download()->as<float>()[1]));
    EXPECT_EQ(scales.download()->as<float>()[0], 0);
    EXPECT_TRUE(std::isnan(zeros.download()->as<float>()[1]));
}

TEST(CudaAssignScalar, TakesTheCodesOfTheCpu) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix before(shape, 8);
        ScalarMatrix expected = before;
        OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.columns}, 9, 3);
        const std::int64_t count = shape.rows * shape.columns;
        const OwnedTensor chosen = some_weights(count);
        const std::int64_t n = chosen->elements();
        for (std::int64_t i = 0; i < n; i += 2) {  // half way between two codes
            const std::int64_t at = chosen->as<std::uint32_t>()[i];
            const auto grid = static_cast<std::int64_t>(before.grid_of(at));
            expected.scales.set(grid, 0.25);
            expected.zeros.set(grid, 1.5);
            target.set(at, 0.125 * static_cast<double>(i % 16));
        }
        target.set(chosen->as<std::uint32_t>()[n - 1], NAN);
        const ScalarMatrix start = expected;
        OwnedTensor changed(DType::u8, {n}), saved(DType::u8, {n, 1}), change(DType::f32, {n});
        cpu::assign_scalar(expected.scalar(), changed, target, chosen);
        cpu::gather_codes(saved, start.codes, chosen);
        cpu::scalar_change(change, expected.scalar(), saved, chosen);
        const DeviceTensor device_target(target), device_chosen(chosen), device_saved(saved);
        for_each_schedule([&] {
            const DeviceScalar device(start);
            const DeviceTensor flags(DType::u8, {n}), moved(DType::f32, {n});
            assign_scalar(device.view(), flags.as<std::uint8_t>(), device_target.as<float>(),
                          device_chosen.as<std::uint32_t>(), n, nullptr);
            EXPECT_TRUE(same_bits(device.codes.download(), expected.codes));
            EXPECT_TRUE(same_bits(flags.download(), changed));
            scalar_change(moved.as<float>(), device.view(), device_saved.as<std::uint8_t>(),
                          device_chosen.as<std::uint32_t>(), n, nullptr);
            EXPECT_TRUE(same_bits(moved.download(), change));
        });
    }
}

TEST(CudaScalarOps, RefuseWhatTheyDoNotCover) {
    const DeviceScalar device(ScalarMatrix({2, 32, 32, 3}, 10));
    const auto refused = [&](auto change) {
        ScalarView view = device.view();
        change(view);
        EXPECT_THROW(dequantize_scalar(static_cast<float*>(nullptr), view, nullptr), std::invalid_argument);
    };
    refused([](ScalarView& view) { view.group = 0; });
    refused([](ScalarView& view) { view.levels = 257; });
    refused([](ScalarView& view) { view.rows = std::int64_t{1} << 32; });
}

}  // namespace
}  // namespace pvtune::cuda
