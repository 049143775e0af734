#include "tests/cuda/attention_cases.h"

namespace pvtune::cuda {
namespace {

struct ForwardResult {
    OwnedTensor out, log_sum_exp;
};

ForwardResult run_forward(const AttentionCase& c) {
    const DeviceTensor q(c.q);
    const DeviceTensor k(c.k);
    const DeviceTensor v(c.v);
    const DeviceTensor out(c.dtype, {c.q->dim(0), c.shape.heads, c.shape.head_dim});
    const DeviceTensor log_sum_exp(DType::f32, {c.shape.heads, c.q->dim(0)});
    with_type(c.dtype, [&]<class T>(T) {
        attention_forward<T>(out.as<T>(), log_sum_exp.as<float>(), q.as<T>(), k.as<T>(), v.as<T>(), sizes_of(c.shape),
                             nullptr);
    });
    return {out.download(), log_sum_exp.download()};
}

void expect_agrees(const AttentionCase& c) {
    const ForwardResult result = run_forward(c);
    EXPECT_LT(relative_error(result.out, values_of(c.out)), attention_tolerance(c.dtype)) << text_of(c.shape);
    // Sums of exact products: f32 whatever the operands are.
    EXPECT_LT(relative_error(result.log_sum_exp, values_of(c.log_sum_exp)), 2 * f32_tolerance) << text_of(c.shape);
}

TEST(CudaAttentionForward, F32AgreesWithTheCpu) {
    for (const AttentionShape& shape : std::vector<AttentionShape>{{1, 1, 1, 1, 16, 0},
                                                                   {3, 7, 3, 1, 6, 0},
                                                                   {2, 65, 4, 1, 16, 5},
                                                                   {1, 40, 4, 4, 64, 1},
                                                                   {1, 130, 3, 3, 10, 64},
                                                                   {1, 33, 2, 1, 128, 0},
                                                                   {1, 9, 1, 1, 256, 0},
                                                                   {2, 37, 4, 2, 16, 9, 1.5F}}) {
        expect_agrees({DType::f32, shape});
    }
}

TEST(CudaAttentionForward, Bf16InPlainLoopsAgreesWithTheCpu) {
    for (const AttentionShape& shape : std::vector<AttentionShape>{{1, 1, 1, 1, 6, 0},
                                                                   {3, 7, 3, 1, 6, 0},
                                                                   {1, 65, 4, 1, 10, 5},
                                                                   {1, 70, 1, 1, 2, 0},
                                                                   {1, 37, 2, 1, 10, 0, 1.5F}}) {
        expect_agrees({DType::bf16, shape});
    }
}

TEST(CudaAttentionForward, Bf16OnTensorCoresAgreesWithTheCpu) {
    for (const AttentionShape& shape : std::vector<AttentionShape>{{1, 1, 1, 1, 64, 0},
                                                                   {3, 7, 3, 1, 16, 0},
                                                                   {2, 65, 4, 1, 64, 0},
                                                                   {1, 130, 3, 3, 64, 64},
                                                                   {1, 200, 1, 1, 64, 5},
                                                                   {1, 130, 3, 1, 8, 0},
                                                                   {2, 65, 1, 1, 96, 0},
                                                                   {1, 130, 1, 1, 80, 1},
                                                                   {1, 130, 4, 1, 128, 0},
                                                                   {1, 65, 3, 3, 128, 5},
                                                                   {1, 150, 1, 1, 112, 64},
                                                                   {1, 70, 2, 1, 256, 0},
                                                                   {1, 33, 1, 1, 144, 5}}) {
        expect_agrees({DType::bf16, shape});
    }
}

TEST(CudaAttentionForward, CappedScoresOnTensorCoresAgreeWithTheCpu) {
    for (const AttentionShape& shape : std::vector<AttentionShape>{{1, 1, 1, 1, 64, 0, 1.5F},
                                                                   {2, 65, 4, 2, 64, 0, 1.5F},
                                                                   {1, 130, 3, 1, 8, 40, 0.5F},
                                                                   {1, 70, 1, 1, 96, 5, 1.5F},
                                                                   {1, 130, 2, 1, 112, 64, 1.5F},
                                                                   {1, 65, 1, 1, 128, 1, 1.5F},
                                                                   {1, 70, 2, 1, 256, 0, 50},
                                                                   {1, 33, 1, 1, 144, 9, 1.5F}}) {
        expect_agrees({DType::bf16, shape});
    }
}

TEST(CudaAttentionForward, BlocksOfLongGridsAgreeWithTheCpu) {
    for (AttentionShape shape : std::vector<AttentionShape>{{1, 130, 3, 1, 64, 0},
                                                            {1, 257, 2, 2, 128, 0},
                                                            {1, 129, 4, 1, 128, 70},
                                                            {1, 130, 3, 1, 64, 50, 1.5F},
                                                            {1, 129, 2, 1, 128, 0, 1.5F}}) {
        // Enough blocks for the tile shapes of large work, however large the device.
        shape.sequences = sequences_for_blocks(2 * multiprocessors(), shape.heads, shape.length);
        expect_agrees({DType::bf16, shape});
    }
}

TEST(CudaAttentionForward, BitsDoNotDependOnTheOrderOfThreads) {
    for (const AttentionCase& c :
         {AttentionCase{DType::f32, {2, 37, 3, 1, 10, 0}}, AttentionCase{DType::bf16, {1, 65, 3, 1, 64, 40}},
          AttentionCase{DType::bf16, {1, 70, 1, 1, 128, 0, 1.5F}}}) {
        const ForwardResult first = run_forward(c);
        for_each_schedule([&] {
            const ForwardResult again = run_forward(c);
            EXPECT_TRUE(same_bits(again.out, first.out)) << text_of(c.shape);
            EXPECT_TRUE(same_bits(again.log_sum_exp, first.log_sum_exp)) << text_of(c.shape);
        });
    }
}

// Of whole numbers, so that scores of 1e4 are exact in any order of their sums: f32 leaves an exponent of that size
// three digits behind the point.
TEST(CudaAttentionForward, LargeScoresStayFinite) {
    const auto whole_numbers = [](std::uint32_t seed) {
        return [next = Uniform(seed, 128)]() mutable { return std::round(next()); };
    };
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const float cap : {0.0F, 1.5F}) {
            AttentionCase c(dtype, {1, 75, 3, 1, 16, 0, cap});
            c.q.fill(whole_numbers(1));
            c.k.fill(whole_numbers(2));
            c.run_on_cpu();
            expect_agrees(c);
        }
    }
}

TEST(CudaAttentionForward, ScoresThatRiseWithEveryTileAreRescaled) {
    // Key j scores about j / 4 for every query: the running maximum moves with each tile.
    AttentionCase c(DType::bf16, {1, 150, 1, 1, 16, 0});
    for (std::int64_t i = 0; i < 150 * 16; ++i) {
        c.q.set(i, 1);
        c.k.set(i, static_cast<double>(i / 16) / 16);
    }
    c.run_on_cpu();
    expect_agrees(c);
}

TEST(CudaAttentionForward, RefusesShapesItDoesNotCover) {
    const auto forward = [](const AttentionSizes& sizes) {
        attention_forward<bf16>(nullptr, nullptr, nullptr, nullptr, nullptr, sizes, nullptr);
    };
    EXPECT_THROW(forward({1, 4, 3, 2, 64, 0}), std::invalid_argument);
    EXPECT_THROW(forward({1, 4, 2, 2, 7, 0}), std::invalid_argument);
    EXPECT_THROW(forward({1, 4, 2, 2, 258, 0}), std::invalid_argument);
    EXPECT_THROW(forward({1, 4, 2, 2, 64, -1}), std::invalid_argument);
    EXPECT_THROW(forward({1, 4, 2, 2, 64, 0, -1}), std::invalid_argument);
    EXPECT_THROW(forward({1, 4, 2, 2, 64, 0, NAN}), std::invalid_argument);
    EXPECT_THROW(forward({1 << 20, 1 << 20, 2, 2, 64, 0}), std::invalid_argument);
    forward({0, 4, 2, 2, 64, 0});
}

}  // namespace
}  // namespace pvtune::cuda
