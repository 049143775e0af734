#include "tests/cuda/attention_cases.h"

#include <limits>

namespace pvtune::cuda {
namespace {

struct Gradients {
    OwnedTensor d_q, d_k, d_v;
};

/// From the CPU's out and log_sum_exp, as given to the CPU's backward pass.
Gradients run_backward(const AttentionCase& c) {
    const DeviceTensor q(c.q);
    const DeviceTensor k(c.k);
    const DeviceTensor v(c.v);
    const DeviceTensor d_out(c.d_out);
    const DeviceTensor out(c.out);
    const DeviceTensor log_sum_exp(c.log_sum_exp);
    const DeviceTensor d_q(c.dtype, {c.q->dim(0), c.shape.heads, c.shape.head_dim});
    const DeviceTensor d_k(c.dtype, {c.q->dim(0), c.shape.kv_heads, c.shape.head_dim});
    const DeviceTensor d_v(c.dtype, {c.q->dim(0), c.shape.kv_heads, c.shape.head_dim});
    const AttentionSizes sizes = sizes_of(c.shape);
    const DeviceWorkspace workspace(attention_backward_workspace(sizes, c.dtype));
    with_type(c.dtype, [&]<class T>(T) {
        attention_backward<T>(d_q.as<T>(), d_k.as<T>(), d_v.as<T>(), d_out.as<T>(), out.as<T>(),
                              log_sum_exp.as<float>(), q.as<T>(), k.as<T>(), v.as<T>(), sizes, workspace.data(),
                              nullptr);
    });
    return {d_q.download(), d_k.download(), d_v.download()};
}

double largest_magnitude(Tensor tensor) {
    double largest = 0;
    for (const double value : values_of(tensor)) largest = std::max(largest, std::abs(value));
    return largest;
}

void expect_agrees(const AttentionCase& c) {
    const Gradients got = run_backward(c);
    const double tolerance = attention_tolerance(c.dtype);
    // Where every query sees one key a row's softmax is constant: d_q and d_k are zero, what is left of them is the
    // rounding of d_out.out, which reaches about 10, times q or k.
    const bool constant = c.shape.length == 1 || c.shape.window == 1;
    const auto error = [&](Tensor result, Tensor expected) {
        return constant ? largest_magnitude(result) / 10 : relative_error(result, values_of(expected));
    };
    EXPECT_LT(error(got.d_q, c.d_q), tolerance) << text_of(c.shape);
    EXPECT_LT(error(got.d_k, c.d_k), tolerance) << text_of(c.shape);
    EXPECT_LT(relative_error(got.d_v, values_of(c.d_v)), tolerance) << text_of(c.shape);
}

TEST(CudaAttentionBackward, F32AgreesWithTheCpu) {
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

TEST(CudaAttentionBackward, Bf16InPlainLoopsAgreesWithTheCpu) {
    for (const AttentionShape& shape : std::vector<AttentionShape>{{1, 1, 1, 1, 6, 0},
                                                                   {3, 7, 3, 1, 6, 0},
                                                                   {1, 65, 4, 1, 10, 5},
                                                                   {1, 70, 1, 1, 2, 0},
                                                                   {1, 37, 2, 1, 10, 0, 1.5F}}) {
        expect_agrees({DType::bf16, shape});
    }
}

TEST(CudaAttentionBackward, Bf16InShortTilesAgreesWithTheCpu) {
    for (const AttentionShape& shape : std::vector<AttentionShape>{{1, 1, 1, 1, 64, 0},
                                                                   {3, 7, 3, 1, 16, 0},
                                                                   {1, 65, 4, 1, 64, 0},
                                                                   {1, 130, 1, 1, 64, 64},
                                                                   {1, 200, 1, 1, 64, 5},
                                                                   {1, 65, 3, 1, 8, 0},
                                                                   {2, 65, 1, 1, 96, 0},
                                                                   {1, 70, 1, 1, 80, 1},
                                                                   {1, 130, 1, 1, 128, 0},
                                                                   {1, 65, 3, 3, 128, 5},
                                                                   {1, 150, 1, 1, 112, 64},
                                                                   {1, 70, 1, 1, 256, 0},
                                                                   {1, 33, 1, 1, 144, 5}}) {
        expect_agrees({DType::bf16, shape});
    }
}

/// Enough blocks for the tiles of large work, however large the device.
std::int64_t sequences_for_long_tiles(const AttentionShape& shape) {
    return sequences_for_blocks(multiprocessors(), shape.kv_heads, shape.length);
}

TEST(CudaAttentionBackward, Bf16InLongTilesAgreesWithTheCpu) {
    for (AttentionShape shape : std::vector<AttentionShape>{{1, 65, 3, 1, 64, 0},
                                                            {1, 257, 2, 2, 64, 70},
                                                            {1, 150, 4, 2, 96, 5},
                                                            {1, 130, 3, 1, 128, 0},
                                                            {1, 257, 2, 2, 128, 0},
                                                            {1, 7, 4, 1, 128, 0}}) {
        shape.sequences = sequences_for_long_tiles(shape);
        expect_agrees({DType::bf16, shape});
    }
}

TEST(CudaAttentionBackward, CappedScoresInShortTilesAgreeWithTheCpu) {
    for (const AttentionShape& shape : std::vector<AttentionShape>{{1, 1, 1, 1, 64, 0, 1.5F},
                                                                   {1, 65, 4, 2, 64, 0, 1.5F},
                                                                   {1, 130, 3, 1, 8, 40, 0.5F},
                                                                   {1, 70, 1, 1, 96, 5, 1.5F},
                                                                   {1, 65, 2, 1, 112, 40, 1.5F},
                                                                   {1, 70, 1, 1, 128, 1, 1.5F},
                                                                   {1, 70, 2, 1, 256, 0, 50},
                                                                   {1, 33, 1, 1, 144, 9, 1.5F}}) {
        expect_agrees({DType::bf16, shape});
    }
}

TEST(CudaAttentionBackward, CappedScoresInLongTilesAgreeWithTheCpu) {
    for (AttentionShape shape : std::vector<AttentionShape>{
             {1, 65, 3, 1, 64, 0, 1.5F}, {1, 150, 4, 2, 96, 5, 1.5F}, {1, 130, 2, 1, 128, 70, 1.5F}}) {
        shape.sequences = sequences_for_long_tiles(shape);
        expect_agrees({DType::bf16, shape});
    }
}

TEST(CudaAttentionBackward, BitsDoNotDependOnTheOrderOfThreads) {
    for (const AttentionCase& c :
         {AttentionCase{DType::f32, {2, 37, 3, 1, 10, 0}}, AttentionCase{DType::bf16, {1, 130, 3, 1, 64, 40}},
          AttentionCase{DType::bf16, {4, 65, 1, 1, 128, 0, 1.5F}}}) {
        const Gradients first = run_backward(c);
        for_each_schedule([&] {
            const Gradients again = run_backward(c);
            EXPECT_TRUE(same_bits(again.d_q, first.d_q)) << text_of(c.shape);
            EXPECT_TRUE(same_bits(again.d_k, first.d_k)) << text_of(c.shape);
            EXPECT_TRUE(same_bits(again.d_v, first.d_v)) << text_of(c.shape);
        });
    }
}

TEST(CudaAttentionBackward, GradientOfQKeepsItsPrecisionAtAnyScale) {
    // d_q is summed in fixed point: tiny and huge gradients, a value far longer than the others, one large key.
    for (const double scale : {1e-30, 1e-8, 1e8}) {
        AttentionCase c(DType::bf16, {1, 70, 2, 1, 64, 0});
        c.d_out.fill(Uniform(4, scale));
        for (std::int64_t e = 0; e < 64; ++e) c.v.set(3 * 64 + e, 50);
        c.k.set(17 * 64 + 5, 40);
        c.run_on_cpu();
        expect_agrees(c);
    }
}

TEST(CudaAttentionBackward, NoGradientGivesZeroes) {
    AttentionCase c(DType::bf16, {1, 40, 2, 1, 64, 0});
    c.d_out.fill([] { return 0.0; });
    const Gradients got = run_backward(c);
    for (const OwnedTensor* gradient : {&got.d_q, &got.d_k, &got.d_v}) EXPECT_EQ(largest_magnitude(*gradient), 0);
}

TEST(CudaAttentionBackward, WhatIsNotFiniteShows) {
    for (const float cap : {0.0F, 1.5F}) {
        for (int which = 0; which < 3; ++which) {
            AttentionCase c(DType::bf16, {1, 40, 2, 1, 64, 0, cap});
            (which == 0 ? c.d_out : which == 1 ? c.v : c.k).set(64, std::numeric_limits<double>::quiet_NaN());
            const Gradients got = run_backward(c);
            // The query of that gradient, or a query that sees that key.
            EXPECT_TRUE(std::isnan(values_of(got.d_q)[which == 0 ? 64 : 2 * 64])) << which << ", cap " << cap;
        }
    }
}

TEST(CudaAttentionBackward, RefusesShapesItDoesNotCover) {
    EXPECT_THROW(attention_backward_workspace({1, 4, 3, 2, 64, 0}, DType::bf16), std::invalid_argument);
    attention_backward<bf16>(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                             {1, 0, 2, 2, 64, 0}, nullptr, nullptr);
}

}  // namespace
}  // namespace pvtune::cuda
