#include "host/backend/cpu/gemm.h"

#include "host/backend/cpu/bf16_blocks.h"
#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

constexpr const char* no_block_unit = "no unit for bf16 blocks here";

/// Calls body for each unit that this machine has.
template <class Body>
void for_block_units(const Body& body) {
    const BlockUnit fastest = block_unit();
    if (fastest == BlockUnit::none) GTEST_SKIP() << no_block_unit;
    for (const BlockUnit most : {BlockUnit::dots, BlockUnit::tiles}) {
        if (most > fastest) continue;
        const LimitBlockUnit limited(most);
        body();
    }
}

enum class Route { blocks, onednn, few_rows, chosen };

void run(Route route, const Gemm& problem) {
    switch (route) {
        case Route::blocks:
            gemm_blocks(problem);
            break;
        case Route::onednn:
            gemm_onednn(problem);
            break;
        case Route::few_rows:
            gemm_few_rows(problem);
            break;
        case Route::chosen:
            gemm(problem);
            break;
    }
}

struct Case {
    std::int64_t m, n, k;
    DType dtype = DType::f32;
    DType result_dtype = DType::f32;
    bool left_transposed = false;
    bool right_transposed = false;
    bool accumulate = false;
    bool bias = false;
    std::int64_t gap = 0;  ///< elements between the end of a row and the next

    std::string text() const {
        return std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) +
               (left_transposed ? " T" : " N") + (right_transposed ? "T " : "N ") + std::string(name_of(dtype)) +
               " -> " + std::string(name_of(result_dtype)) + (accumulate ? " accumulate" : "") + (bias ? " bias" : "") +
               " gap " + std::to_string(gap);
    }
};

/// The operands of a case, with gaps between rows that hold NaN (operands) or a mark (result).
struct Operands {
    OwnedTensor left, right, result, bias;
    Gemm problem;
};

constexpr double mark = 77;

OwnedTensor matrix(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t gap, std::uint32_t seed,
                   double between) {
    OwnedTensor tensor(dtype, {rows * (columns + gap) - gap});
    Uniform next(seed);
    for (std::int64_t i = 0; i < tensor->elements(); ++i) {
        const double value = next();
        tensor.set(i, i % (columns + gap) < columns ? value : between);
    }
    return tensor;
}

Operands operands_of(const Case& c) {
    Operands o;
    const std::int64_t left_rows = c.left_transposed ? c.k : c.m;
    const std::int64_t left_columns = c.left_transposed ? c.m : c.k;
    const std::int64_t right_rows = c.right_transposed ? c.n : c.k;
    const std::int64_t right_columns = c.right_transposed ? c.k : c.n;
    o.left = matrix(c.dtype, left_rows, left_columns, c.gap, 1, NAN);
    o.right = matrix(c.dtype, right_rows, right_columns, c.gap, 2, NAN);
    o.result = matrix(c.result_dtype, c.m, c.n, c.gap, 3, mark);
    o.bias = random_tensor(DType::f32, {c.n}, 4);
    o.problem.m = c.m;
    o.problem.n = c.n;
    o.problem.k = c.k;
    o.problem.dtype = c.dtype;
    o.problem.left = o.left->data;
    o.problem.left_stride = left_columns + c.gap;
    o.problem.left_transposed = c.left_transposed;
    o.problem.right = o.right->data;
    o.problem.right_stride = right_columns + c.gap;
    o.problem.right_transposed = c.right_transposed;
    o.problem.result_dtype = c.result_dtype;
    o.problem.result = o.result->data;
    o.problem.result_stride = c.n + c.gap;
    o.problem.accumulate = c.accumulate;
    o.problem.bias = c.bias ? o.bias->as<float>() : nullptr;
    return o;
}

Values expected_of(const Operands& o) {
    const Gemm& p = o.problem;
    const Values left = values_of(o.left);
    const Values right = values_of(o.right);
    const std::int64_t left_step = p.left_transposed ? p.left_stride : 1;
    const std::int64_t right_step = p.right_transposed ? 1 : p.right_stride;
    Values result = values_of(o.result);
    for (std::int64_t i = 0; i < p.m; ++i) {
        for (std::int64_t j = 0; j < p.n; ++j) {
            double sum = p.bias != nullptr ? static_cast<double>(p.bias[j]) : 0;
            const double* a = left.data() + i * (p.left_transposed ? 1 : p.left_stride);
            const double* b = right.data() + j * (p.right_transposed ? p.right_stride : 1);
            for (std::int64_t l = 0; l < p.k; ++l) sum += a[l * left_step] * b[l * right_step];
            double& to = result[static_cast<std::size_t>(i * p.result_stride + j)];
            to = sum + (p.accumulate ? to : 0);
        }
    }
    return result;
}

void check(Route route, const Case& c) {
    Operands o = operands_of(c);
    const Values expected = expected_of(o);
    run(route, o.problem);
    const Values got = values_of(o.result);
    // f32 sums of k products in [-1, 1] reach some sqrt(k); each of the k roundings is 2^-24 of that at most, and they
    // partly cancel. A bf16 result adds its own 2^-8.
    const double sum_error = 4e-6 * std::sqrt(static_cast<double>(c.k));
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double rounding = c.result_dtype == DType::bf16 ? std::abs(expected[i]) * 0x1p-8 : 0;
        ASSERT_NEAR(got[i], expected[i], sum_error + rounding) << c.text() << ", element " << i;
    }
}

const std::vector<std::int64_t> extents = {1, 31, 33, 70};
const std::vector<std::int64_t> depths = {1, 32, 45, 70};

/// Every transposition, odd extents, results of both types, in turn with bias, accumulation and gaps. In one thread: on
/// busy machines starting a team costs far more than these products.
void check_all(Route route, DType dtype) {
    std::vector<DType> results = {DType::f32};
    if (dtype == DType::bf16) results.push_back(DType::bf16);
    int turn = 0;
    for (const auto m : extents) {
        for (const auto n : extents) {
            for (const auto k : depths) {
                for (int layout = 0; layout < 4; ++layout) {
                    for (const DType result : results) {
                        Case c{m, n, k, dtype, result, layout % 2 == 1, layout / 2 == 1};
                        if (route == Route::few_rows && (c.left_transposed || !c.right_transposed)) continue;
                        // 3, 5 and 7 share no factor with the loops around: every option meets every layout.
                        c.accumulate = turn % 3 == 1;
                        c.bias = turn % 5 < 2;
                        c.gap = turn % 7 < 3 ? turn % 7 : 0;
                        ++turn;
                        with_threads(1, [&] { check(route, c); });
                        if (::testing::Test::HasFatalFailure()) return;
                    }
                }
            }
        }
    }
}

TEST(Gemm, BlocksAgreeWithPlainLoops) {
    for_block_units([] { check_all(Route::blocks, DType::bf16); });
}

TEST(Gemm, OneDnnAgreesWithPlainLoops) {
    // oneDNN compiles a kernel a shape: fewer of them.
    int turn = 0;
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
                 {1, 1, 1}, {1, 33, 45}, {31, 32, 33}, {45, 1, 70}, {70, 45, 1}, {33, 70, 31}, {32, 32, 32}}) {
            for (int layout = 0; layout < 4; ++layout) {
                const DType result = dtype == DType::bf16 && turn % 2 == 0 ? DType::bf16 : DType::f32;
                Case c{m, n, k, dtype, result, layout % 2 == 1, layout / 2 == 1, turn % 3 == 1, turn % 5 < 2, turn % 4};
                ++turn;
                ASSERT_NO_FATAL_FAILURE(check(Route::onednn, c));
            }
        }
    }
}

TEST(Gemm, FewRowsAgreeWithPlainLoops) {
    check_all(Route::few_rows, DType::f32);
    check_all(Route::few_rows, DType::bf16);
}

TEST(Gemm, ChosenRouteAgreesWithPlainLoops) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t m : {1, 4, 5, 33}) {
            check(Route::chosen, {m, 45, 70, dtype, dtype, false, true, false, true});
            check(Route::chosen, {m, 45, 70, dtype, DType::f32, true, false, true, false});
        }
    }
}

TEST(Gemm, NothingToDo) {
    Gemm empty;
    empty.n = 5;
    empty.k = 3;
    gemm(empty);
}

TEST(Gemm, BlocksCutLongSums) {
    if (block_unit() == BlockUnit::none) GTEST_SKIP() << no_block_unit;
    for (const std::int64_t k : {8192, 8193, 2 * 8192 + 33}) {
        for (int layout = 0; layout < 4; ++layout) {
            for (const DType result : {DType::f32, DType::bf16}) {
                for (const bool accumulate : {false, true}) {
                    check(Route::blocks, {5, 35, k, DType::bf16, result, layout % 2 == 1, layout / 2 == 1, accumulate,
                                          !accumulate, layout});
                }
            }
        }
    }
}

// More than one slab of resident panels on either side, and more threads than blocks one way.
TEST(Gemm, BlocksWithSeveralSlabs) {
    if (block_unit() == BlockUnit::none) GTEST_SKIP() << no_block_unit;
    for (int layout = 0; layout < 4; ++layout) {
        check(Route::blocks, {70, 100, 8000, DType::bf16, DType::f32, layout % 2 == 1, layout / 2 == 1});
    }
}

// X^T X by halves has the bits of the whole product, on top of a symmetric result too.
TEST(Gemm, SymmetricHalvesHaveTheSameBits) {
    if (block_unit() == BlockUnit::none) GTEST_SKIP() << no_block_unit;
    for (const std::int64_t width : {1, 33, 64, 290}) {
        for (const std::int64_t tokens : {3, 200, 8300}) {
            const OwnedTensor in = random_tensor(DType::bf16, {tokens, width}, 3);
            OwnedTensor whole(DType::f32, {width, width});
            OwnedTensor halves(DType::f32, {width, width});
            for (int times = 0; times < 2; ++times) {
                linear_backward_weight(whole, in, in, true);
                hessian_accumulate(halves, in);
            }
            EXPECT_TRUE(same_bits(whole, halves)) << width << " wide, " << tokens << " tokens";
        }
    }
}

TEST(Gemm, SameBitsForAnyNumberOfThreads) {
    std::vector<Route> routes = {Route::few_rows};
    if (block_unit() != BlockUnit::none) routes.push_back(Route::blocks);
    for (const Route route : routes) {
        for (const auto& [m, n, k] :
             std::vector<std::array<std::int64_t, 3>>{{33, 70, 45}, {130, 31, 301}, {20, 200, 64}, {70, 70, 8300}}) {
            for (int layout = 0; layout < 4; ++layout) {
                Case c{m, n, k, DType::bf16, DType::f32, layout % 2 == 1, layout / 2 == 1, true, true};
                if (route == Route::few_rows && (c.left_transposed || !c.right_transposed)) continue;
                expect_same_bits_for_any_threads([&] {
                    Operands o = operands_of(c);
                    run(route, o.problem);
                    return std::vector<OwnedTensor>{o.result};
                });
            }
        }
    }
}

}  // namespace
}  // namespace pvtune::cpu
