#include "host/backend/hadamard.h"
#include "cuda/device_limits.h"
#include "cuda/hadamard_sizes.h"
#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_tensors.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

/// The factor of a size on the device.
DeviceTensor device_factor(std::int64_t size) {
    const HadamardFactor& factor = hadamard_factor(size);
    OwnedTensor matrix(DType::f32, {factor.order, factor.order});
    std::copy(factor.matrix.begin(), factor.matrix.end(), matrix->as<float>());
    return DeviceTensor(matrix);
}

void expect_transform(std::int64_t rows, std::int64_t size) {
    const OwnedTensor in = random_tensor(DType::f32, {rows, size}, 1);
    OwnedTensor expected = in;
    cpu::hadamard_transform(expected);
    const DeviceTensor factor = device_factor(size);
    const DeviceTensor values(in);
    hadamard_transform(values.as<float>(), rows, size, factor.as<float>(), hadamard_order(size), nullptr);
    EXPECT_LT(relative_error(values.download(), values_of(expected)), f32_tolerance) << rows << " x " << size;
}

TEST(CudaHadamard, MatchesTheMatrix) {
    // From the definition: S's sign is the parity of the bits that row and column share.
    for (const std::int64_t size : {1, 2, 4, 8, 16, 32, 12, 24, 72, 36, 18, 3, 40, 28}) {
        const HadamardFactor& factor = hadamard_factor(size);
        const std::int64_t power = size / factor.order;
        const OwnedTensor in = random_tensor(DType::f32, {3, size}, 1);
        Values expected;
        for (std::int64_t row = 0; row < 3; ++row) {
            for (std::int64_t i = 0; i < size; ++i) {
                double sum = 0;
                for (std::int64_t j = 0; j < size; ++j) {
                    const int bits = std::popcount(static_cast<std::uint64_t>((i % power) & (j % power)));
                    const double entry = static_cast<double>(
                        factor.matrix[static_cast<std::size_t>(i / power * factor.order + j / power)]);
                    sum += (bits % 2 != 0 ? -entry : entry) * static_cast<double>(in->as<float>()[row * size + j]);
                }
                expected.push_back(sum);
            }
        }
        const DeviceTensor dense = device_factor(size);
        for_each_schedule([&] {
            const DeviceTensor values(in);
            hadamard_transform(values.as<float>(), 3, size, dense.as<float>(), factor.order, nullptr);
            EXPECT_LT(relative_error(values.download(), expected), f32_tolerance) << size;
        });
    }
}

TEST(CudaHadamard, MatchesTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t size : {64, 128, 192, 576, 1000, 1536}) expect_transform(2, size);
    });
}

TEST(CudaHadamard, LongRowsAtScale) {
    for (const std::int64_t size : {8192, 11008, 14336, 16384}) expect_transform(1, size);
}

TEST(CudaHadamard, RefusesWhatItDoesNotCover) {
    const auto run = [](std::int64_t rows, std::int64_t size, std::int64_t order) {
        hadamard_transform(nullptr, rows, size, nullptr, order, nullptr);
    };
    EXPECT_THROW(run(1, 24, 1), std::invalid_argument);  // 24 is no power of two
    EXPECT_THROW(run(1, 24, 5), std::invalid_argument);  // not divided
    EXPECT_THROW(run(1, 1 << 20, 1), std::invalid_argument);
    EXPECT_NO_THROW(run(0, 24, 12));
}

TEST(CudaHadamard, TellsItsLimitBeforehand) {
    EXPECT_EQ(longest_hadamard_row(std::size_t{227} << 10), 32768);  // H100
    EXPECT_EQ(longest_hadamard_row(std::size_t{99} << 10), 24576);   // RTX 30 and 40
    for (const std::size_t words : {1, 31, 32, 33, 65, 66, 67, 1000, 12288}) {
        const auto longest = static_cast<int>(longest_hadamard_row(words * sizeof(float)));
        EXPECT_LE(padded(longest), words);
        EXPECT_GT(padded(longest + 1), words);
    }
    const std::int64_t longest = longest_hadamard_row(static_cast<std::size_t>(most_shared_bytes()));
    EXPECT_NO_THROW(hadamard_transform(nullptr, 0, longest, nullptr, longest, nullptr));
    EXPECT_THROW(hadamard_transform(nullptr, 0, longest + 1, nullptr, longest + 1, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace pvtune::cuda
