// row_products and scale_rows against the CPU's.
#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

struct Sizes {
    std::int64_t rows, columns;
};
constexpr Sizes all_sizes[] = {{1, 1}, {3, 7}, {5, 1028}, {2, 1031}, {17, 64}};

TEST(CudaRowProducts, MatchesTheCpu) {
    for (const auto& [rows, columns] : all_sizes) {
        const OwnedTensor a = random_tensor(DType::f32, {rows, columns}, 1);
        const OwnedTensor b = random_tensor(DType::f32, {rows, columns}, 2);
        OwnedTensor expected(DType::f64, {rows});
        cpu::row_products(expected, a, b);
        const DeviceTensor device_a(a), device_b(b);
        for_each_schedule([&] {
            const DeviceTensor products(DType::f64, {rows});
            row_products(products.as<double>(), device_a.as<float>(), device_b.as<float>(), rows, columns, nullptr);
            EXPECT_LT(relative_error(products.download(), values_of(expected)), 1e-13) << columns;
        });
    }
}

TEST(CudaScaleRows, HasTheBitsOfTheCpu) {
    for (const auto& [rows, columns] : all_sizes) {
        const OwnedTensor before = random_tensor(DType::f32, {rows, columns}, 3);
        const OwnedTensor factors = random_tensor(DType::f32, {rows}, 4, 10);
        const OwnedTensor expected = before;
        cpu::scale_rows(expected, factors);
        const DeviceTensor device_factors(factors);
        for_each_schedule([&] {
            const DeviceTensor values(before);
            scale_rows(values.as<float>(), device_factors.as<float>(), rows, columns, nullptr);
            EXPECT_TRUE(same_bits(values.download(), expected)) << columns;
        });
    }
}

}  // namespace
}  // namespace pvtune::cuda
