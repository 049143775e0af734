#include "host/quant/ldlq.h"

#include "host/backend/cpu/e8p_search.h"
#include "host/backend/cpu/quant_ops.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

constexpr std::int64_t columns = 48, blocks = columns / 8;

/// Sum of x x^T over inputs whose coordinates hang together: a random mixture of fewer sources, and some noise.
std::vector<float> correlated_hessian(std::uint32_t seed) {
    constexpr std::int64_t inputs = 200, sources = 10;
    const Values mixture = values_of(random_tensor(DType::f32, {columns, sources}, seed));
    Uniform next(seed + 1);
    Values sum(columns * columns);
    for (std::int64_t t = 0; t < inputs; ++t) {
        Values source(sources);
        for (double& value : source) value = next();
        Values x(columns);
        for (std::size_t i = 0; i < x.size(); ++i) {
            x[i] = 0.1 * next();
            for (std::size_t k = 0; k < source.size(); ++k) x[i] += mixture[i * sources + k] * source[k];
        }
        for (std::size_t i = 0; i < x.size(); ++i) {
            for (std::size_t j = 0; j < x.size(); ++j) sum[i * columns + j] += x[i] * x[j];
        }
    }
    return {sum.begin(), sum.end()};
}

Values damped(const std::vector<float>& hessian, double share) {
    Values out(hessian.begin(), hessian.end());
    double mean = 0;
    for (std::size_t i = 0; i < columns; ++i) mean += out[i * columns + i] / columns;
    for (std::size_t i = 0; i < columns; ++i) out[i * columns + i] += share * mean;
    return out;
}

/// U of H = (U + I) D (U + I)^T by block elimination from the last block: D_k is what is left of block (k, k),
/// U_jk = H_jk D_k^-1, and U_ik D_k U_jk^T goes off H_ij. Inverses by Gauss-Jordan.
Values block_elimination(Values h) {
    const auto at = [](std::int64_t i, std::int64_t j) { return static_cast<std::size_t>(i * columns + j); };
    Values u(h.size());
    for (std::int64_t k = blocks - 1; k >= 0; --k) {
        double left[8][16] = {};
        for (int i = 0; i < 8; ++i) {
            for (int j = 0; j < 8; ++j) left[i][j] = h[at(8 * k + i, 8 * k + j)];
            left[i][8 + i] = 1;
        }
        for (int p = 0; p < 8; ++p) {
            const double pivot = left[p][p];
            for (double& value : left[p]) value /= pivot;
            for (int i = 0; i < 8; ++i) {
                if (i == p) continue;
                const double factor = left[i][p];
                for (int j = 0; j < 16; ++j) left[i][j] -= factor * left[p][j];
            }
        }
        for (std::int64_t i = 0; i < 8 * k; ++i) {
            for (int c = 0; c < 8; ++c) {
                for (int d = 0; d < 8; ++d) u[at(i, 8 * k + c)] += h[at(i, 8 * k + d)] * left[d][8 + c];
            }
        }
        const Values before = h;
        for (std::int64_t i = 0; i < 8 * k; ++i) {
            for (std::int64_t j = 0; j < 8 * k; ++j) {
                for (int c = 0; c < 8; ++c) h[at(i, j)] -= u[at(i, 8 * k + c)] * before[at(8 * k + c, j)];
            }
        }
    }
    return u;
}

double objective(const std::vector<float>& target, const std::vector<std::uint8_t>& codes, std::int64_t bytes,
                 const std::vector<float>& hessian) {
    double sum = 0;
    const std::size_t rows = target.size() / columns;
    for (std::size_t row = 0; row < rows; ++row) {
        double error[columns];
        for (std::size_t g = 0; g < blocks; ++g) {
            float values[8];
            cpu::decode_group(values, codes.data() + (row * blocks + g) * static_cast<std::size_t>(bytes), bytes);
            for (std::size_t c = 0; c < 8; ++c) {
                error[g * 8 + c] = static_cast<double>(target[row * columns + g * 8 + c] - values[c]);
            }
        }
        for (std::size_t i = 0; i < columns; ++i) {
            for (std::size_t j = 0; j < columns; ++j) {
                sum += error[i] * static_cast<double>(hessian[i * columns + j]) * error[j];
            }
        }
    }
    return sum;
}

std::vector<std::uint8_t> ldlq(std::vector<float> target, std::int64_t rows, std::int64_t n, std::int64_t bytes,
                               std::vector<float> shares) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * n / 8 * bytes));
    cpu::ldlq({codes.data(), DType::u8, {rows, n / 8, bytes}}, {target.data(), DType::f32, {rows, n}},
              {shares.data(), DType::f32, {n, n}});
    return codes;
}

std::vector<float> gaussian(std::int64_t count, std::uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = normal(engine);
    return values;
}

TEST(Ldlq, FeedbackIsThatOfBlockElimination) {
    const std::vector<float> hessian = correlated_hessian(1);
    const std::vector<float> shares = ldlq_shares(hessian, columns);
    ASSERT_EQ(static_cast<std::int64_t>(shares.size()), columns * columns);
    const Values expected = block_elimination(damped(hessian, 0.01));
    for (std::int64_t k = 0; k < blocks; ++k) {
        for (std::int64_t i = 0; i < 8 * k; ++i) {
            for (std::int64_t c = 0; c < 8; ++c) {
                EXPECT_NEAR(static_cast<double>(shares[static_cast<std::size_t>((8 * k + c) * columns + i)]),
                            expected[static_cast<std::size_t>(i * columns + 8 * k + c)], 1e-4);
            }
        }
    }
}

TEST(Ldlq, MatchesTheFormulaDirectly) {
    const std::vector<float> hessian = correlated_hessian(2);
    const Values u = block_elimination(damped(hessian, 0.01));
    constexpr std::int64_t rows = 37;
    const std::vector<float> target = gaussian(rows * columns, 3);
    for (const std::int64_t bytes : {2, 3, 4}) {
        std::vector<std::uint8_t> expected(static_cast<std::size_t>(rows * blocks * bytes));
        for (std::int64_t row = 0; row < rows; ++row) {
            double error[columns] = {};
            for (std::int64_t k = 0; k < blocks; ++k) {
                float x[8];
                for (std::int64_t c = 0; c < 8; ++c) {
                    double sum = static_cast<double>(target[static_cast<std::size_t>(row * columns + 8 * k + c)]);
                    for (std::int64_t j = 0; j < 8 * k; ++j) {
                        sum += error[j] * u[static_cast<std::size_t>(j * columns + 8 * k + c)];
                    }
                    x[c] = static_cast<float>(sum);
                }
                std::uint8_t* code = expected.data() + (row * blocks + k) * bytes;
                cpu::encode_group(code, x, bytes);
                cpu::decode_group(x, code, bytes);
                for (std::int64_t c = 0; c < 8; ++c) {
                    error[8 * k + c] =
                        static_cast<double>(target[static_cast<std::size_t>(row * columns + 8 * k + c)] - x[c]);
                }
            }
        }
        const auto codes = ldlq(target, rows, columns, bytes, ldlq_shares(hessian, columns));
        // In f32 a group that lies between two points may fall to the other side, and its row goes on from there.
        EXPECT_NEAR(objective(target, codes, bytes, hessian) / objective(target, expected, bytes, hessian), 1, 0.02);
        std::int64_t same = 0;
        for (std::size_t i = 0; i < codes.size(); ++i) same += codes[i] == expected[i];
        EXPECT_GT(same, static_cast<std::int64_t>(codes.size()) * 9 / 10);
    }
}

TEST(Ldlq, BeatsNearestRounding) {
    const std::vector<float> hessian = correlated_hessian(4);
    constexpr std::int64_t rows = 64;
    const std::vector<float> target = gaussian(rows * columns, 5);
    for (const std::int64_t bytes : {2, 3, 4}) {
        const auto codes = ldlq(target, rows, columns, bytes, ldlq_shares(hessian, columns));
        const std::vector<float> none(columns * columns);
        const auto nearest = ldlq(target, rows, columns, bytes, none);
        for (std::int64_t g = 0; g < rows * blocks; ++g) {
            std::uint8_t code[4];
            cpu::encode_group(code, target.data() + 8 * g, bytes);
            ASSERT_TRUE(std::equal(code, code + bytes, nearest.data() + g * bytes)) << g;
        }
        EXPECT_LT(objective(target, codes, bytes, hessian), 0.7 * objective(target, nearest, bytes, hessian));
    }
}

TEST(Ldlq, ABadHessianEndsInNearestRounding) {
    const auto feedback_of = [](double diagonal, double other) {
        std::vector<float> hessian(columns * columns, static_cast<float>(other));
        for (std::size_t i = 0; i < columns; ++i) hessian[i * columns + i] = static_cast<float>(diagonal);
        return ldlq_shares(hessian, columns);
    };
    const auto is_zero = [](const std::vector<float>& values) {
        return std::all_of(values.begin(), values.end(), [](float value) { return value == 0; });
    };
    EXPECT_TRUE(is_zero(feedback_of(0, 0)));
    EXPECT_TRUE(is_zero(feedback_of(NAN, 1)));
    EXPECT_TRUE(is_zero(feedback_of(1, NAN)));
    EXPECT_TRUE(is_zero(feedback_of(INFINITY, 0)));
    EXPECT_TRUE(is_zero(feedback_of(-1, 0)));
    EXPECT_TRUE(is_zero(feedback_of(1, 3)));      // indefinite whatever the damping
    EXPECT_FALSE(is_zero(feedback_of(1, 1)));     // rank one: damping helps
    EXPECT_FALSE(is_zero(feedback_of(1, 1.05)));  // indefinite at 1 %, not at 10 %
}

TEST(Ldlq, SameBitsForAnyThreads) {
    const std::vector<float> hessian = correlated_hessian(6);
    const std::vector<float> target = gaussian(100 * columns, 7);
    std::vector<std::uint8_t> one;
    with_threads(1, [&] { one = ldlq(target, 100, columns, 3, ldlq_shares(hessian, columns)); });
    for (const int threads : {2, 3}) {
        with_threads(threads, [&] { EXPECT_EQ(one, ldlq(target, 100, columns, 3, ldlq_shares(hessian, columns))); });
    }
}

}  // namespace
}  // namespace pvtune
