#include "tests/cuda/additive_matrix.h"

namespace pvtune::cuda {
namespace {

// Groups that need one warp a row, several, and an odd rest; rows that end inside a warp's tile.
const AdditiveShape shapes[] = {
    {5, 7, 8, 2, 256, DType::u8},     {67, 64, 8, 2, 200, DType::u8},  {9, 300, 8, 2, 64, DType::u8},
    {33, 3, 16, 3, 20, DType::u8},    {11, 45, 16, 2, 256, DType::u8}, {17, 90, 4, 2, 256, DType::u8},
    {7, 33, 4, 1, 16, DType::u8},     {1, 130, 8, 3, 33, DType::u16},  {13, 70, 8, 4, 16, DType::u8},
    {10, 40, 8, 5, 16, DType::u8},    {3, 10, 4, 8, 16, DType::u16},   {21, 57, 8, 1, 4096, DType::u16},
    {6, 70, 16, 2, 2000, DType::u16}, {4, 9, 4, 8, 256, DType::u8},
};

template <class T>
void expect_product(const AdditiveShape& shape, bool with_bias, double tolerance) {
    const AdditiveMatrix matrix(shape, 1);
    const DeviceMatrix device(matrix);
    const OwnedTensor in = random_tensor(dtype_of<T>, {matrix.columns()}, 5);
    const OwnedTensor bias = random_tensor(DType::f32, {shape.rows}, 6);
    OwnedTensor oracle(dtype_of<T>, {shape.rows});
    cpu::dequantize_gemv(oracle, in, matrix.additive(), with_bias ? Tensor(bias) : Tensor());
    const Values expected = values_of(oracle);
    const DeviceTensor device_in(in);
    const DeviceTensor device_bias(bias);
    OwnedTensor first;
    for_each_schedule([&] {
        const DeviceTensor out(dtype_of<T>, {shape.rows});
        device.with_view([&](const auto& view) {
            dequantize_gemv(out.as<T>(), device_in.as<T>(), with_bias ? device_bias.as<float>() : nullptr, view,
                            nullptr);
        });
        const OwnedTensor got = out.download();
        EXPECT_LT(relative_error(got, expected), tolerance);
        if (first->empty()) first = got;
        EXPECT_TRUE(same_bits(got, first));
    });
}

TEST(CudaDequantizeGemv, MatchesTheCpu) {
    for (const AdditiveShape& shape : shapes) {
        SCOPED_TRACE(shape);
        expect_product<float>(shape, true, f32_tolerance);
        // Codebooks are rounded to bf16 (2^-9 of each entry), and so are both results.
        expect_product<bf16>(shape, false, bf16_tolerance);
    }
}

TEST(CudaDequantizeGemv, CodebooksWithZerosAndTinyNumbers) {
    // In bf16 two entries share a word: a large one beside zeros, and numbers near the smallest there are.
    AdditiveMatrix matrix({4, 6, 8, 1, 16, DType::u8}, 1);
    float* const book = matrix.codebooks->as<float>();
    for (std::int64_t i = 0; i < matrix.codebooks->elements(); ++i) {
        const float values[] = {0.0F, -1.0F, 1e-38F, 1.0F, -0.0F, 1e-30F, 3.0F, -1e-40F};
        book[i] = values[(i + i / 8) % 8];
    }
    matrix.scales.fill([] { return 1.0; });
    OwnedTensor in(DType::bf16, {48});
    in.fill([] { return 1.0; });
    OwnedTensor oracle(DType::bf16, {4});
    cpu::dequantize_gemv(oracle, in, matrix.additive(), {});
    const DeviceTensor device_in(in);
    const DeviceTensor out(DType::bf16, {4});
    const DeviceMatrix device(matrix);
    dequantize_gemv(out.as<bf16>(), device_in.as<bf16>(), nullptr, device.view<std::uint8_t>(), nullptr);
    EXPECT_LT(relative_error(out.download(), values_of(oracle)), bf16_tolerance);
}

}  // namespace
}  // namespace pvtune::cuda
