// Matrix products through cuda/gemm.h against loops in double: every layout, type and alignment that the backend uses.
#include "cuda/gemm.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

struct Sizes {
    std::int64_t m, n, k;
};
constexpr Sizes all_sizes[] = {{1, 1, 1}, {5, 7, 3}, {33, 65, 17}, {48, 41, 16}, {64, 128, 96}, {130, 24, 200}};

std::vector<double> transposed(const std::vector<double>& matrix, std::int64_t rows, std::int64_t columns) {
    std::vector<double> result(matrix.size());
    for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j)
            result[static_cast<std::size_t>(j * rows + i)] = matrix[static_cast<std::size_t>(i * columns + j)];
    return result;
}

/// sum + left [m, k] * right [k, n]
std::vector<double> product_of(const Sizes& sizes, const std::vector<double>& left, const std::vector<double>& right,
                               std::vector<double> sum) {
    const auto [m, n, k] = sizes;
    for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t l = 0; l < k; ++l)
            for (std::int64_t j = 0; j < n; ++j)
                sum[static_cast<std::size_t>(i * n + j)] +=
                    left[static_cast<std::size_t>(i * k + l)] * right[static_cast<std::size_t>(l * n + j)];
    return sum;
}

class CudaGemm : public ::testing::Test {
protected:
    /// Operands begin `offset` elements into their memory.
    void expect_product(const Sizes& sizes, DType dtype, DType result_dtype, bool left_transposed,
                        bool right_transposed, bool accumulate, std::int64_t offset) {
        const auto [m, n, k] = sizes;
        const OwnedTensor left = random_tensor(dtype, {offset + m * k}, 1);
        const OwnedTensor right = random_tensor(dtype, {offset + k * n}, 2);
        const OwnedTensor before = random_tensor(result_dtype, {offset + m * n}, 3);
        const DeviceTensor device_left(left);
        const DeviceTensor device_right(right);
        const DeviceTensor result(before);
        const auto at = [&](const DeviceTensor& tensor) {
            const Tensor view = tensor.tensor();
            return view.data + offset * view.bytes() / view.elements();
        };
        gemm_.run({m, n, k, dtype, at(device_left), left_transposed, at(device_right), right_transposed, result_dtype,
                   at(result), accumulate},
                  nullptr);

        const auto values = [&](const OwnedTensor& tensor) {
            const std::vector<double> all = values_of(tensor);
            return std::vector<double>(all.begin() + offset, all.end());
        };
        const std::vector<double> a = left_transposed ? transposed(values(left), k, m) : values(left);
        const std::vector<double> b = right_transposed ? transposed(values(right), n, k) : values(right);
        std::vector<double> sum = values(before);
        if (!accumulate) std::fill(sum.begin(), sum.end(), 0);
        // At most 200 sums in f32, then the rounding of the result.
        const double tolerance = result_dtype == DType::bf16 ? 0x1p-8 : 2e-6;
        EXPECT_LT(relative_error(values(result.download()), product_of(sizes, a, b, sum)), tolerance)
            << m << " x " << n << " x " << k << (dtype == DType::bf16 ? ", bf16" : ", f32")
            << (result_dtype == DType::bf16 ? " to bf16" : " to f32") << ", transposed " << left_transposed
            << right_transposed << ", accumulate " << accumulate << ", offset " << offset;
    }

    Gemm gemm_;
};

TEST_F(CudaGemm, AgreesWithLoopsInEveryLayout) {
    for (const Sizes& sizes : all_sizes) {
        for (const bool left_transposed : {false, true}) {
            for (const bool right_transposed : {false, true}) {
                for (const bool accumulate : {false, true}) {
                    const auto expect = [&](DType dtype, DType result) {
                        expect_product(sizes, dtype, result, left_transposed, right_transposed, accumulate, 0);
                    };
                    expect(DType::f32, DType::f32);
                    expect(DType::bf16, DType::f32);
                    expect(DType::bf16, DType::bf16);
                }
            }
        }
    }
}

TEST_F(CudaGemm, OperandsMayBeginAnywhere) {
    for (const Sizes& sizes : all_sizes) {
        for (const std::int64_t offset : {8, 4, 1}) {
            expect_product(sizes, DType::bf16, DType::bf16, false, true, false, offset);
            expect_product(sizes, DType::bf16, DType::f32, true, false, true, offset);
            expect_product(sizes, DType::f32, DType::f32, false, true, false, offset);
        }
    }
}

TEST_F(CudaGemm, OperandsMayBePartsOfWiderMatrices) {
    // As sweeps over blocks of columns use it: result[:, 7:] += errors * shares[7:, 3:3 + k]^T, stored side by side.
    constexpr std::int64_t m = 9, n = 21, k = 5, wide = 40;
    const OwnedTensor left = random_tensor(DType::f32, {m, wide}, 4);
    const OwnedTensor right = random_tensor(DType::f32, {n, wide}, 5);
    const OwnedTensor before = random_tensor(DType::f32, {m, wide}, 6);
    const DeviceTensor device_left(left), device_right(right), result(before);
    gemm_.run({m, n, k, DType::f32, device_left.as<float>() + 2, false, device_right.as<float>() + 3, true, DType::f32,
               result.as<float>() + 7, true, wide, wide, wide},
              nullptr);
    std::vector<double> expected = values_of(before);
    for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
            for (std::int64_t l = 0; l < k; ++l) {
                expected[static_cast<std::size_t>(i * wide + 7 + j)] +=
                    values_of(left)[static_cast<std::size_t>(i * wide + 2 + l)] *
                    values_of(right)[static_cast<std::size_t>(j * wide + 3 + l)];
            }
        }
    }
    EXPECT_LT(relative_error(result.download(), expected), 2e-6);
}

TEST_F(CudaGemm, RepeatsBitForBit) {
    const OwnedTensor left = random_tensor(DType::bf16, {64, 4096}, 1);
    const OwnedTensor right = random_tensor(DType::bf16, {24, 4096}, 2);
    std::vector<std::vector<double>> results;
    for (int i = 0; i < 3; ++i) {
        Gemm fresh;
        const DeviceTensor device_left(left);
        const DeviceTensor device_right(right);
        const DeviceTensor result(DType::f32, {64, 24});
        // Few results of long sums: the library splits such sums over blocks.
        fresh.run({64, 24, 4096, DType::bf16, device_left.as<bf16>(), false, device_right.as<bf16>(), true, DType::f32,
                   result.as<float>(), false},
                  nullptr);
        results.push_back(values_of(result.download()));
    }
    EXPECT_EQ(results[1], results[0]);
    EXPECT_EQ(results[2], results[0]);
}

}  // namespace
}  // namespace pvtune::cuda
