// Scalar grids on the CPU against plain loops: dequantising, products from codes, gradients, the nearest code.
#include "host/backend/cpu/quant_ops.h"
#include "tests/scalar_matrix.h"

namespace pvtune {
namespace {

using namespace testing;

TEST(DequantizeScalar, MatchesLoops) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix matrix(shape, 1);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            OwnedTensor weight(dtype, {shape.rows, shape.columns});
            cpu::dequantize_scalar(weight, matrix.scalar());
            EXPECT_LT(relative_error(weight, matrix.weights()), dtype == DType::f32 ? 1e-6 : 4e-3);
        }
    }
}

TEST(ScalarGemv, MatchesLoops) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix matrix(shape, 2);
        const Values weights = matrix.weights();
        const OwnedTensor bias = random_tensor(DType::f32, {shape.rows}, 3);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const OwnedTensor in = random_tensor(dtype, {1, shape.columns}, 4);
            for (const bool with_bias : {false, true}) {
                Values expected(static_cast<std::size_t>(shape.rows));
                for (std::size_t i = 0; i < weights.size(); ++i) {
                    const auto columns = static_cast<std::size_t>(shape.columns);
                    expected[i / columns] += weights[i] * values_of(in)[i % columns];
                }
                for (std::size_t o = 0; with_bias && o < expected.size(); ++o) expected[o] += values_of(bias)[o];
                OwnedTensor out(dtype, {1, shape.rows});
                cpu::scalar_gemv(out, in, matrix.scalar(), with_bias ? Tensor(bias) : Tensor());
                EXPECT_LT(relative_error(out, expected), dtype == DType::f32 ? 2e-6 : 4e-3);
            }
        }
    }
}

TEST(ScalarGradient, MatchesDifferencesOfALoss) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix matrix(shape, 5);
        // loss = <d_weight, What>: linear in scales and in zeros.
        const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, shape.columns}, 6);
        OwnedTensor d_scales = random_tensor(DType::f32, {shape.rows, shape.grids()}, 7);
        OwnedTensor d_zeros = random_tensor(DType::f32, {shape.rows, shape.grids()}, 8);
        cpu::scalar_gradient(d_scales, d_zeros, d_weight, matrix.scalar());
        const Values g = values_of(d_weight), s = values_of(matrix.scales), z = values_of(matrix.zeros);
        const auto of_scales = [&](const Values& at) { return dot(g, matrix.weights(at, z)); };
        const auto of_zeros = [&](const Values& at) { return dot(g, matrix.weights(s, at)); };
        EXPECT_LT(relative_error(d_scales, numeric_gradient(s, of_scales)), 1e-5);
        EXPECT_LT(relative_error(d_zeros, numeric_gradient(z, of_zeros)), 1e-5);
    }
}

TEST(AssignScalar, TakesTheNearestOfAll) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        ScalarMatrix matrix(shape, 9);
        const ScalarMatrix before = matrix;
        const std::int64_t count = shape.rows * shape.columns;
        const OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.columns}, 10, 3);
        const OwnedTensor chosen = some_weights(count);
        OwnedTensor changed(DType::u8, {chosen->elements()});
        cpu::assign_scalar(matrix.scalar(), changed, target, chosen);
        const Values s = values_of(matrix.scales), z = values_of(matrix.zeros), t = values_of(target);
        std::vector<bool> is_chosen(static_cast<std::size_t>(count));
        for (std::int64_t i = 0; i < chosen->elements(); ++i) {
            const std::int64_t at = chosen->as<std::uint32_t>()[i];
            is_chosen[static_cast<std::size_t>(at)] = true;
            const int code = matrix.codes->as<std::uint8_t>()[at];
            const int old = before.codes->as<std::uint8_t>()[at];
            EXPECT_EQ(changed->as<std::uint8_t>()[i], code != old ? 1 : 0);
            if (s[matrix.grid_of(at)] == 0) {
                EXPECT_EQ(code, old);
                continue;
            }
            const auto distance = [&](int c) {
                return std::abs(matrix.value(at, c, s, z) - t[static_cast<std::size_t>(at)]);
            };
            double least = INFINITY;
            for (int c = 0; c < shape.levels(); ++c) least = std::min(least, distance(c));
            ASSERT_LT(code, shape.levels());
            EXPECT_LE(distance(code), least + 1e-5);
        }
        for (std::int64_t at = 0; at < count; ++at) {
            if (!is_chosen[static_cast<std::size_t>(at)]) {
                EXPECT_EQ(matrix.codes->as<std::uint8_t>()[at], before.codes->as<std::uint8_t>()[at]);
            }
        }
    }
}

TEST(AssignScalar, TiesEndsAndStrangeGrids) {
    struct Case {
        float scale, zero, target;
        int code;  ///< from 5
    };
    const float nan = NAN, infinity = INFINITY;
    const Case cases[] = {{0.5F, 2, 0.25F, 2},  {0.5F, 2, 0.75F, 3}, {-0.5F, 2, 0.25F, 1}, {-0.5F, 2, -0.25F, 2},
                          {1, 0, 100, 7},       {1, 0, -100, 0},     {-1, 0, 100, 0},      {0, 1, 3, 5},
                          {1e-42F, 0, 1e3F, 5}, {1, 0, nan, 5},      {1, 0, infinity, 5},  {nan, 0, 1, 5},
                          {1, infinity, 1, 5},  {1, 0.5F, 1, 1},     {1, -30, 0, 0}};
    const auto count = static_cast<std::int64_t>(std::size(cases));
    ScalarMatrix matrix({count, 1, 32, 3}, 11);
    OwnedTensor target(DType::f32, {count, 1}), all(DType::u32, {count}), changed(DType::u8, {count});
    for (std::int64_t i = 0; i < count; ++i) {
        matrix.scales->as<float>()[i] = cases[i].scale;
        matrix.zeros->as<float>()[i] = cases[i].zero;
        target->as<float>()[i] = cases[i].target;
        matrix.codes->as<std::uint8_t>()[i] = 5;
        all.set(i, static_cast<double>(i));
    }
    cpu::assign_scalar(matrix.scalar(), changed, target, all);
    for (std::int64_t i = 0; i < count; ++i) {
        EXPECT_EQ(matrix.codes->as<std::uint8_t>()[i], cases[i].code) << i;
        EXPECT_EQ(changed->as<std::uint8_t>()[i], cases[i].code != 5) << i;
    }
}

TEST(ScalarChange, MeasuresGatheredCodesAndTheyComeBack) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix before(shape, 12);
        ScalarMatrix moved = before;
        moved.codes = ScalarMatrix(shape, 13).codes;
        const OwnedTensor chosen = some_weights(shape.rows * shape.columns);
        const std::int64_t count = chosen->elements();
        OwnedTensor saved(DType::u8, {count, 1}), change(DType::f32, {count}), keep(DType::u8, {count});
        cpu::gather_codes(saved, before.codes, chosen);
        cpu::scalar_change(change, moved.scalar(), saved, chosen);
        const Values old = before.weights(), now = moved.weights();
        Values expected;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::size_t at = chosen->as<std::uint32_t>()[i];
            expected.push_back((now[at] - old[at]) * (now[at] - old[at]));
        }
        EXPECT_LT(relative_error(change, expected), 1e-6);
        cpu::restore_codes(moved.codes, saved, chosen, keep);
        for (std::int64_t i = 0; i < count; ++i) {
            const std::size_t at = chosen->as<std::uint32_t>()[i];
            EXPECT_EQ(moved.codes->as<std::uint8_t>()[at], before.codes->as<std::uint8_t>()[at]);
        }
    }
}

TEST(ScalarOps, SameBitsForAnyThreads) {
    const ScalarShape shape{70, 300, 64, 3};
    expect_same_bits_for_any_threads([&] {
        ScalarMatrix matrix(shape, 14);
        const OwnedTensor d_weight = random_tensor(DType::f32, {70, 300}, 15);
        OwnedTensor d_scales(DType::f32, {70, 5}), d_zeros(DType::f32, {70, 5});
        cpu::scalar_gradient(d_scales, d_zeros, d_weight, matrix.scalar());
        const OwnedTensor chosen = some_weights(70 * 300);
        OwnedTensor changed(DType::u8, {chosen->elements()});
        cpu::assign_scalar(matrix.scalar(), changed, d_weight, chosen);
        OwnedTensor weight(DType::bf16, {70, 300}), out(DType::f32, {1, 70});
        cpu::dequantize_scalar(weight, matrix.scalar());
        cpu::scalar_gemv(out, random_tensor(DType::f32, {1, 300}, 16), matrix.scalar(), {});
        return std::vector<OwnedTensor>{d_scales, d_zeros, matrix.codes, changed, weight, out};
    });
}

}  // namespace
}  // namespace pvtune
