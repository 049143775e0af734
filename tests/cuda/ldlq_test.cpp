// LDLQ's sweep, kernel and products together, against the CPU's.
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/cuda/code_sweeps.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

struct LdlqCase {
    std::int64_t rows, columns, bytes;
    OwnedTensor target, shares;

    LdlqCase(std::int64_t r, std::int64_t c, std::int64_t b, std::uint32_t seed)
        : rows(r),
          columns(c),
          bytes(b),
          target(random_tensor(DType::f32, {r, c}, seed, 2)),
          shares(random_tensor(DType::f32, {c, c}, seed + 1, 0.25)) {}

    OwnedTensor codes_of_the_cpu() const {
        const OwnedTensor codes(DType::u8, {rows, columns / 8, bytes});
        cpu::ldlq(codes, target, shares);
        return codes;
    }
    OwnedTensor codes_of_the_device() const {
        const DeviceTensor codes(DType::u8, {rows, columns / 8, bytes});
        const DeviceTensor t(target), s(shares);
        const DeviceWorkspace workspace(ldlq_workspace(rows, columns));
        Gemm gemm;
        ldlq(codes.as<std::uint8_t>(), t.as<float>(), s.as<float>(), rows, columns, bytes, gemm, workspace.data(),
             nullptr);
        return codes.download();
    }
};

TEST(CudaLdlq, TakesTheCodesOfTheCpuTiesIncluded) {
    // With 2 bits everything has few binary digits: no sum is rounded, and whole and half numbers lie between many
    // points. One row, rows and columns that fill no block, a block and a group.
    for (const auto& [rows, columns] : {std::pair{1, 8}, {37, 40}, {3, 136}, {33, 264}}) {
        LdlqCase c(rows, columns, 2, 1);
        for (OwnedTensor* tensor : {&c.target, &c.shares}) {
            for (std::int64_t i = 0; i < (*tensor)->elements(); ++i) {
                const double unit = tensor == &c.target ? 0.5 : 0.125;
                tensor->set(i, unit * std::round(static_cast<double>((*tensor)->as<float>()[i]) / unit));
            }
        }
        const OwnedTensor expected = c.codes_of_the_cpu();
        for_each_schedule([&] { EXPECT_TRUE(same_bits(c.codes_of_the_device(), expected)) << columns; });
    }
}

TEST(CudaLdlq, TakesTheCodesOfTheCpuWhereRoundingDoesNotDecide) {
    for (const std::int64_t bytes : {2, 3, 4}) {
        const LdlqCase c(35, 152, bytes, 2);
        const OwnedTensor expected = c.codes_of_the_cpu();
        const OwnedTensor got = c.codes_of_the_device();
        std::int64_t different = 0;
        for (std::int64_t i = 0; i < got->elements(); ++i) {
            different += got->as<std::uint8_t>()[i] != expected->as<std::uint8_t>()[i];
        }
        // A group that lies between two points within the rounding of its sums, and from there its row.
        EXPECT_LE(different, got->elements() / 100) << bytes;
    }
}

TEST(CudaLdlq, RefusesWhatItDoesNotCover) {
    const auto run = [](std::int64_t columns, std::int64_t bytes, std::int64_t first, std::int64_t count) {
        ldlq_block(nullptr, nullptr, nullptr, nullptr, nullptr, 1, columns, bytes, first, count, nullptr);
    };
    EXPECT_THROW(run(264, 2, 0, 136), std::invalid_argument);
    EXPECT_THROW(run(264, 2, 200, 128), std::invalid_argument);
    EXPECT_THROW(run(264, 2, 4, 8), std::invalid_argument);
    EXPECT_THROW(run(264, 5, 0, 8), std::invalid_argument);
    EXPECT_NO_THROW(run(264, 2, 264, 0));
}

}  // namespace
}  // namespace pvtune::cuda
