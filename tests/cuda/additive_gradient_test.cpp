#include "tests/cuda/additive_matrix.h"

#include <cmath>

namespace pvtune::cuda {
namespace {

// Sums in shared memory: two groups a warp (up to 16 elements a group) and one (more); rows shorter than a chunk of 128
// weights, longer, and odd. The last four have codebooks too large for that.
const AdditiveShape shapes[] = {
    {37, 40, 8, 2, 256, DType::u8}, {5, 7, 8, 2, 256, DType::u8},    {3, 5, 4, 1, 256, DType::u8},
    {33, 3, 16, 3, 20, DType::u8},  {17, 19, 8, 2, 300, DType::u16}, {2, 1, 4, 4, 2, DType::u8},
    {70, 33, 16, 1, 16, DType::u8}, {1, 130, 8, 3, 33, DType::u16},  {9, 21, 8, 5, 16, DType::u8},
    {6, 70, 4, 2, 3, DType::u16},   {8, 41, 16, 2, 100, DType::u16}, {40, 11, 8, 1, 3000, DType::u16},
    {19, 24, 8, 8, 256, DType::u8}, {7, 13, 4, 2, 9000, DType::u16}, {12, 9, 16, 1, 4000, DType::u16},
};

struct Gradients {
    OwnedTensor codebooks, scales;
};

Gradients on_device(const AdditiveMatrix& matrix, const OwnedTensor& d_weight) {
    const AdditiveShape& shape = matrix.shape;
    const DeviceMatrix device(matrix);
    const DeviceTensor gradient(d_weight);
    const DeviceTensor d_codebooks(DType::f32, {shape.books, shape.size, shape.group});
    const DeviceTensor d_scales(DType::f32, {shape.rows});
    device.with_view([&](const auto& view) {
        const DeviceWorkspace workspace(additive_gradient_workspace(view));
        additive_gradient(d_codebooks.as<float>(), d_scales.as<float>(), gradient.as<float>(), view, workspace.data(),
                          nullptr);
        finish();
    });
    return {d_codebooks.download(), d_scales.download()};
}

TEST(CudaAdditiveGradient, MatchesTheCpuWithTheSameBitsInAnyOrder) {
    for (const AdditiveShape& shape : shapes) {
        SCOPED_TRACE(shape);
        const AdditiveMatrix matrix(shape, 3);
        const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, matrix.columns()}, 4);
        OwnedTensor d_codebooks(DType::f32, {shape.books, shape.size, shape.group});
        OwnedTensor d_scales(DType::f32, {shape.rows});
        cpu::additive_gradient(d_codebooks, d_scales, d_weight, matrix.additive());
        Gradients first;
        for_each_schedule([&] {
            Gradients got = on_device(matrix, d_weight);
            // f32 sums of some hundred terms in two orders.
            EXPECT_LT(relative_error(got.codebooks, values_of(d_codebooks)), f32_tolerance);
            EXPECT_LT(relative_error(got.scales, values_of(d_scales)), f32_tolerance);
            if (first.codebooks->empty()) first = got;
            EXPECT_TRUE(same_bits(got.codebooks, first.codebooks));
            EXPECT_TRUE(same_bits(got.scales, first.scales));
        });
    }
}

TEST(CudaAdditiveGradient, OfNoRowsIsZero) {
    const AdditiveMatrix matrix({0, 5, 8, 2, 16, DType::u8}, 3);
    const DeviceTensor codebooks(matrix.codebooks);
    const DeviceTensor d_codebooks(DType::f32, {2, 16, 8});
    AdditiveView<std::uint8_t> view{nullptr, codebooks.as<float>(), nullptr, 0, 5, 2, 16, 8};
    additive_gradient<std::uint8_t>(d_codebooks.as<float>(), nullptr, nullptr, view, nullptr, nullptr);
    finish();
    for (const double value : values_of(d_codebooks.download())) EXPECT_EQ(value, 0);
}

TEST(CudaAdditiveGradient, OneCodeTakesEverything) {
    // Every group of every warp adds to the same codeword.
    for (const AdditiveShape& shape : {AdditiveShape{21, 37, 8, 2, 256, DType::u8}, {21, 37, 8, 1, 9000, DType::u16}}) {
        AdditiveMatrix matrix(shape, 3);
        for (std::int64_t i = 0; i < matrix.codes->elements(); ++i) matrix.set_code(i, 255);
        const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, matrix.columns()}, 4);
        OwnedTensor d_codebooks(DType::f32, {shape.books, shape.size, shape.group});
        OwnedTensor d_scales(DType::f32, {shape.rows});
        cpu::additive_gradient(d_codebooks, d_scales, d_weight, matrix.additive());
        for_each_schedule([&] {
            const Gradients got = on_device(matrix, d_weight);
            EXPECT_LT(relative_error(got.codebooks, values_of(d_codebooks)), f32_tolerance);
        });
    }
}

TEST(CudaAdditiveGradient, GradientsOfAnySize) {
    // The fixed point's unit follows the largest gradient: down to numbers below the normal ones, up to the largest.
    for (const double size : {1e-40, 1e-20, 1e20, 1e37}) {
        for (const AdditiveShape& shape :
             {AdditiveShape{5, 7, 8, 2, 256, DType::u8}, AdditiveShape{5, 7, 8, 1, 9000, DType::u16}}) {
            const AdditiveMatrix matrix(shape, 3);
            const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, matrix.columns()}, 4, size);
            OwnedTensor d_codebooks(DType::f32, {shape.books, shape.size, shape.group});
            OwnedTensor d_scales(DType::f32, {shape.rows});
            cpu::additive_gradient(d_codebooks, d_scales, d_weight, matrix.additive());
            const Gradients got = on_device(matrix, d_weight);
            // 1e-40 has 17 bits.
            EXPECT_LT(relative_error(got.codebooks, values_of(d_codebooks)), size < 1e-38 ? 1e-4 : f32_tolerance);
        }
    }
}

TEST(CudaAdditiveGradient, WhatIsNotFiniteShows) {
    const float values[] = {NAN, INFINITY, -INFINITY};
    for (const float value : values) {
        for (const AdditiveShape& shape :
             {AdditiveShape{5, 7, 8, 2, 256, DType::u8}, AdditiveShape{5, 7, 8, 1, 9000, DType::u16}}) {
            const AdditiveMatrix matrix(shape, 3);
            OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, matrix.columns()}, 4);
            d_weight->as<float>()[3 * matrix.columns() + 9] = value;
            const Gradients got = on_device(matrix, d_weight);
            int strange = 0;
            for (const double entry : values_of(got.codebooks)) strange += std::isfinite(entry) ? 0 : 1;
            EXPECT_GE(strange, shape.books);
            EXPECT_FALSE(std::isfinite(got.scales->as<float>()[3]));
        }
    }
}

TEST(CudaAdditiveGradient, NothingToAdd) {
    const AdditiveMatrix matrix({0, 3, 8, 2, 16, DType::u8}, 3);
    const Gradients got = on_device(matrix, OwnedTensor(DType::f32, {0, 24}));
    EXPECT_TRUE(same_bits(got.codebooks, OwnedTensor(DType::f32, {2, 16, 8})));
}

}  // namespace
}  // namespace pvtune::cuda
