#include "tests/cuda/additive_matrix.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

// Codebooks in shared memory with every number of codebooks that has its own kernel, and 5 and 8; the last three are
// too large for it. Rows that end inside a block's tile, and tiles that end inside a row.
const AdditiveShape shapes[] = {
    {5, 7, 8, 2, 256, DType::u8},      {3, 5, 4, 1, 256, DType::u8},      {33, 3, 16, 3, 20, DType::u8},
    {17, 9, 8, 2, 300, DType::u16},    {2, 1, 4, 4, 2, DType::u8},        {70, 131, 8, 1, 1000, DType::u16},
    {7, 4, 16, 4, 16, DType::u16},     {1, 130, 8, 3, 33, DType::u16},    {9, 33, 16, 1, 256, DType::u8},
    {6, 11, 4, 2, 100, DType::u8},     {4, 9, 8, 5, 256, DType::u8},      {3, 10, 4, 8, 16, DType::u16},
    {19, 14, 8, 8, 256, DType::u8},    {21, 57, 8, 1, 65536, DType::u16}, {3, 11, 16, 3, 4096, DType::u16},
    {12, 200, 4, 2, 2000, DType::u16},
};

// The same sums in the same order, rounded once: the bits of the CPU.
TEST(CudaDequantizeAdditive, HasTheBitsOfTheCpu) {
    for (const AdditiveShape& shape : shapes) {
        SCOPED_TRACE(shape);
        const AdditiveMatrix matrix(shape, 1);
        const DeviceMatrix device(matrix);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            OwnedTensor expected(dtype, {shape.rows, matrix.columns()});
            cpu::dequantize_additive(expected, matrix.additive());
            for_each_schedule([&] {
                const DeviceTensor weight(dtype, {shape.rows, matrix.columns()});
                device.with_view([&](const auto& view) {
                    if (dtype == DType::f32) dequantize_additive(weight.as<float>(), view, nullptr);
                    if (dtype == DType::bf16) dequantize_additive(weight.as<bf16>(), view, nullptr);
                });
                EXPECT_TRUE(same_bits(weight.download(), expected)) << name_of(dtype);
            });
        }
    }
}

TEST(CudaDequantizeAdditive, RefusesWhatItDoesNotCover) {
    const DeviceMatrix device(AdditiveMatrix({2, 2, 8, 2, 16, DType::u8}, 1));
    const DeviceTensor weight(DType::f32, {2, 16});
    const auto refused = [&](auto change) {
        auto view = device.view<std::uint8_t>();
        change(view);
        EXPECT_THROW(dequantize_additive(weight.as<float>(), view, nullptr), std::invalid_argument);
    };
    refused([](auto& view) { view.group = 6; });
    refused([](auto& view) { view.books = 9; });
    refused([](auto& view) { view.books = 0; });
    refused([](auto& view) { view.codebook_size = 257; });
    refused([](auto& view) { view.rows = std::int64_t{1} << 32; });
}

TEST(CudaDequantizeAdditive, NothingToDo) {
    dequantize_additive(static_cast<float*>(nullptr),
                        AdditiveView<std::uint8_t>{nullptr, nullptr, nullptr, 0, 4, 2, 16, 8}, nullptr);
}

}  // namespace
}  // namespace pvtune::cuda
