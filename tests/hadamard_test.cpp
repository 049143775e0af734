#include "host/backend/hadamard.h"

#include "host/backend/cpu/hadamard.h"
#include "host/backend/cpu/quant_ops.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

/// M (x) S from the definitions: S's sign is the parity of the bits that row and column share.
Values matrix_of(std::int64_t size) {
    const HadamardFactor& factor = hadamard_factor(size);
    const std::int64_t power = size / factor.order;
    Values matrix;
    for (std::int64_t i = 0; i < size; ++i) {
        for (std::int64_t j = 0; j < size; ++j) {
            const bool odd = std::popcount(static_cast<std::uint64_t>((i % power) & (j % power))) % 2 != 0;
            const double dense =
                static_cast<double>(factor.matrix[static_cast<std::size_t>(i / power * factor.order + j / power)]);
            matrix.push_back(odd ? -dense : dense);
        }
    }
    return matrix;
}

TEST(Hadamard, OrdersOfTheFactor) {
    EXPECT_EQ(hadamard_order(4096), 1);
    EXPECT_EQ(hadamard_order(1), 1);
    EXPECT_EQ(hadamard_order(192), 12);
    EXPECT_EQ(hadamard_order(1536), 12);
    EXPECT_EQ(hadamard_order(3072), 12);
    EXPECT_EQ(hadamard_order(40), 20);
    EXPECT_EQ(hadamard_order(576), 36);    // Paley's second construction from 17
    EXPECT_EQ(hadamard_order(14336), 28);  // from 13
    EXPECT_EQ(hadamard_order(11008), 43);  // no Paley matrix of a small order: the stand-in
    EXPECT_EQ(hadamard_order(18), 9);      // 36 does not divide it
    EXPECT_EQ(hadamard_order(2 * 1031), 1031);
}

TEST(Hadamard, MatricesAreSymmetricAndOrthonormal) {
    for (const std::int64_t size : {1, 2, 8, 12, 20, 24, 28, 36, 44, 52, 60, 72, 3, 7, 18, 86}) {
        const Values matrix = matrix_of(size);
        double largest = 0;
        for (std::int64_t i = 0; i < size; ++i) {
            for (std::int64_t j = 0; j < size; ++j) {
                double sum = 0;
                for (std::int64_t k = 0; k < size; ++k) {
                    sum +=
                        matrix[static_cast<std::size_t>(i * size + k)] * matrix[static_cast<std::size_t>(j * size + k)];
                }
                ASSERT_NEAR(sum, i == j ? 1 : 0, 1e-6) << size << ": " << i << ", " << j;
                ASSERT_EQ(matrix[static_cast<std::size_t>(i * size + j)],
                          matrix[static_cast<std::size_t>(j * size + i)]);
                largest = std::max(largest, std::abs(matrix[static_cast<std::size_t>(i * size + j)]));
            }
        }
        // All entries alike, or at most sqrt(2) larger: what makes a vector incoherent.
        const bool hadamard = hadamard_order(size) % 4 == 0 || hadamard_order(size) == 1;
        EXPECT_LT(largest * std::sqrt(static_cast<double>(size)), hadamard ? 1.000001 : 1.414215) << size;
    }
}

TEST(Hadamard, TransformsMatchTheMatrix) {
    for (const std::int64_t size : {1, 2, 4, 8, 12, 40, 72, 28, 18, 64, 256, 86, 576}) {
        const Values matrix = matrix_of(size);
        for (const std::int64_t other : {1, 5, 16, 37}) {
            const OwnedTensor in = random_tensor(DType::f32, {other, size}, 1);
            Values expected;
            for (std::int64_t row = 0; row < other; ++row) {
                for (std::int64_t i = 0; i < size; ++i) {
                    double sum = 0;
                    for (std::int64_t j = 0; j < size; ++j) {
                        sum += matrix[static_cast<std::size_t>(i * size + j)] *
                               static_cast<double>(in->as<float>()[row * size + j]);
                    }
                    expected.push_back(sum);
                }
            }
            OwnedTensor rows = in;
            cpu::hadamard_transform(rows);
            EXPECT_LT(relative_error(rows, expected), f32_tolerance) << other << " x " << size;

            OwnedTensor transposed(DType::f32, {size, other});
            for (std::int64_t i = 0; i < other * size; ++i) {
                transposed->as<float>()[i % size * other + i / size] = in->as<float>()[i];
            }
            cpu::transform_columns(transposed->as<float>(), size, other);
            for (std::int64_t i = 0; i < other * size; ++i) {
                // The same sums in the same order.
                ASSERT_EQ(transposed->as<float>()[i % size * other + i / size], rows->as<float>()[i]);
            }
            cpu::hadamard_transform(rows);
            EXPECT_LT(relative_error(rows, values_of(in)), f32_tolerance) << "back, " << other << " x " << size;
        }
    }
}

TEST(Hadamard, SameBitsForAnyThreads) {
    expect_same_bits_for_any_threads([] {
        std::vector<OwnedTensor> results;
        results.push_back(random_tensor(DType::f32, {70, 576}, 3));
        cpu::hadamard_transform(results[0]);
        cpu::transform_columns(results[0]->as<float>(), 70, 576);
        return results;
    });
}

}  // namespace
}  // namespace pvtune
