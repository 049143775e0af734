// GPTQ's sweep, kernel and products together, against the CPU's.
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cuda/code_sweeps.h"
#include "tests/cuda/device_scalar.h"

#include <numeric>
#include <stdexcept>

namespace pvtune::cuda {
namespace {

/// Rows that fill no block of the kernel, one column more than a block, a short last block, grids cut by blocks.
const ScalarShape shapes[] = {{37, 300, 96, 3}, {5, 129, 129, 2}, {33, 128, 32, 4}, {1, 1, 32, 8}, {70, 45, 32, 3}};

struct GptqCase {
    ScalarMatrix matrix;
    OwnedTensor weight, shares, order;

    GptqCase(const ScalarShape& shape, std::uint32_t seed)
        : matrix(shape, seed),
          weight(random_tensor(DType::f32, {shape.rows, shape.columns}, seed + 3, 2)),
          shares(random_tensor(DType::f32, {shape.columns, shape.columns}, seed + 4, 0.3)),
          order(DType::u32, {shape.columns}) {
        std::vector<std::uint32_t> places(static_cast<std::size_t>(shape.columns));
        std::iota(places.begin(), places.end(), 0U);
        std::shuffle(places.begin(), places.end(), std::mt19937(seed));
        order.fill([next = places.begin()]() mutable { return *next++; });
        for (std::int64_t i = 0; i < matrix.scales->elements(); ++i) {
            matrix.scales.set(i, 0.1 + std::fabs(static_cast<double>(matrix.scales->as<float>()[i])));
        }
    }
    /// Few binary digits everywhere: no sum is rounded, so that the order of summing says nothing, and many weights lie
    /// half way between two codes.
    void make_exact() {
        const auto round = [](OwnedTensor& tensor, double unit) {
            for (std::int64_t i = 0; i < tensor->elements(); ++i) {
                tensor.set(i, unit * std::round(static_cast<double>(tensor->as<float>()[i]) / unit));
            }
        };
        round(weight, 0x1p-4);
        round(shares, 0.25);
        round(matrix.zeros, 0.5);
        for (std::int64_t i = 0; i < matrix.scales->elements(); ++i) matrix.scales.set(i, i % 3 == 0 ? 0.5 : 0.25);
    }
    OwnedTensor codes_of_the_cpu() const {
        const ScalarMatrix copy = matrix;
        cpu::gptq(copy.scalar(), weight, shares, order);
        return copy.codes;
    }
    OwnedTensor codes_of_the_device() const {
        const DeviceScalar device(matrix);
        const DeviceTensor w(weight), s(shares), o(order);
        const DeviceWorkspace workspace(gptq_workspace(matrix.shape.rows, matrix.shape.columns));
        Gemm gemm;
        gptq(device.view(), w.as<float>(), s.as<float>(), o.as<std::uint32_t>(), gemm, workspace.data(), nullptr);
        return device.codes.download();
    }
};

TEST(CudaGptq, TakesTheCodesOfTheCpuTiesIncluded) {
    for (const ScalarShape& shape : shapes) {
        SCOPED_TRACE(shape);
        GptqCase c(shape, 1);
        c.make_exact();
        const OwnedTensor expected = c.codes_of_the_cpu();
        for_each_schedule([&] { EXPECT_TRUE(same_bits(c.codes_of_the_device(), expected)); });
    }
}

TEST(CudaGptq, TakesTheCodesOfTheCpuWhereRoundingDoesNotDecide) {
    const GptqCase c(shapes[0], 2);
    const OwnedTensor expected = c.codes_of_the_cpu();
    const OwnedTensor got = c.codes_of_the_device();
    std::int64_t different = 0;
    for (std::int64_t i = 0; i < got->elements(); ++i) {
        different += got->as<std::uint8_t>()[i] != expected->as<std::uint8_t>()[i];
    }
    // Of 11100 weights about one lies within the rounding of its sum of half way; a row goes on from there otherwise.
    EXPECT_LE(different, 60);
}

TEST(CudaGptq, RefusesMoreColumnsThanABlockHas) {
    const DeviceScalar device(ScalarMatrix({2, 300, 32, 3}, 3));
    const auto run = [&](std::int64_t first, std::int64_t count) {
        gptq_block(device.view(), nullptr, nullptr, nullptr, nullptr, nullptr, first, count, nullptr);
    };
    EXPECT_THROW(run(0, 129), std::invalid_argument);
    EXPECT_THROW(run(200, 101), std::invalid_argument);
    EXPECT_NO_THROW(run(300, 0));
}

}  // namespace
}  // namespace pvtune::cuda
