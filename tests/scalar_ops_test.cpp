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

TEST(ScalarDifferent, TakesTheNearestOfTheOthers) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        ScalarMatrix matrix(shape, 20);
        const OwnedTensor chosen = some_weights(shape.rows * shape.columns);
        OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.columns}, 21, 3);
        OwnedTensor changed(DType::u8, {chosen->elements()});
        cpu::assign_scalar(matrix.scalar(), changed, target, chosen);  // half of them stand on their nearest code
        for (std::int64_t i = 0; i < chosen->elements(); ++i) changed->as<std::uint8_t>()[i] = i % 5 == 0 ? 1 : 0;
        ScalarMatrix random(shape, 22);
        for (std::int64_t i = 0; i < matrix.codes->elements(); i += 2) {
            matrix.codes->as<std::uint8_t>()[i] = random.codes->as<std::uint8_t>()[i];
        }
        if (chosen->elements() > 1) target.set(chosen->as<std::uint32_t>()[1], NAN);
        const ScalarMatrix before = matrix;
        cpu::scalar_different(matrix.scalar(), changed, target, chosen);
        const Values s = values_of(matrix.scales), z = values_of(matrix.zeros), t = values_of(target);
        for (std::int64_t i = 0; i < chosen->elements(); ++i) {
            const std::int64_t at = chosen->as<std::uint32_t>()[i];
            const int code = matrix.codes->as<std::uint8_t>()[at];
            const int old = before.codes->as<std::uint8_t>()[at];
            const bool stays = i % 5 == 0 || s[matrix.grid_of(at)] == 0 || std::isnan(t[static_cast<std::size_t>(at)]);
            EXPECT_EQ(changed->as<std::uint8_t>()[i], stays && i % 5 != 0 ? 0 : 1);
            EXPECT_EQ(code == old, stays);
            if (stays) continue;
            const auto distance = [&](int c) {
                return std::abs(matrix.value(at, c, s, z) - t[static_cast<std::size_t>(at)]);
            };
            double least = INFINITY;
            for (int c = 0; c < shape.levels(); ++c) least = c == old ? least : std::min(least, distance(c));
            ASSERT_LT(code, shape.levels());
            EXPECT_LE(distance(code), least * (1 + 1e-5) + 1e-5);
        }
    }
}

TEST(ScalarDifferent, HalfWayIsTheLowerCodes) {
    // scale 1, zero 0, four levels; {present, target, code}.
    const double cases[][3] = {{1, 1, 0}, {2, 2.25, 3}, {2, 1.75, 1}, {0, -3, 1}, {3, 9, 2}, {3, 0.5, 0}, {0, 0.5, 1}};
    const auto count = static_cast<std::int64_t>(std::size(cases));
    ScalarMatrix matrix({count, 1, 32, 2}, 23);
    OwnedTensor target(DType::f32, {count, 1}), all(DType::u32, {count}), changed(DType::u8, {count});
    for (std::int64_t i = 0; i < count; ++i) {
        matrix.scales.set(i, 1);
        matrix.zeros.set(i, 0);
        matrix.codes->as<std::uint8_t>()[i] = static_cast<std::uint8_t>(cases[i][0]);
        target.set(i, cases[i][1]);
        all.set(i, static_cast<double>(i));
    }
    cpu::scalar_different(matrix.scalar(), changed, target, all);
    for (std::int64_t i = 0; i < count; ++i) {
        EXPECT_EQ(matrix.codes->as<std::uint8_t>()[i], cases[i][2]) << i;
    }
}

TEST(ScalarDistanceAndProduct, MatchLoops) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix before(shape, 24);
        ScalarMatrix moved = before;
        moved.codes = ScalarMatrix(shape, 25).codes;
        const OwnedTensor dense = random_tensor(DType::f32, {shape.rows, shape.columns}, 26);
        const OwnedTensor chosen = some_weights(shape.rows * shape.columns);
        const std::int64_t count = chosen->elements();
        OwnedTensor saved(DType::u8, {count, 1}), product(DType::f32, {count}), distance(DType::f32, {count});
        cpu::gather_codes(saved, before.codes, chosen);
        cpu::scalar_product(product, moved.scalar(), dense, saved, chosen);
        cpu::scalar_distance(distance, moved.scalar(), dense, chosen);
        const Values old = before.weights(), now = moved.weights(), d = values_of(dense);
        Values products, distances;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::size_t at = chosen->as<std::uint32_t>()[i];
            products.push_back(d[at] * (now[at] - old[at]));
            distances.push_back((d[at] - now[at]) * (d[at] - now[at]));
        }
        EXPECT_LT(relative_error(product, products), 1e-6);
        EXPECT_LT(relative_error(distance, distances), 1e-6);
    }
}

TEST(ScalarEager, IsTheBestOfAllCodes) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        ScalarMatrix matrix(shape, 27);
        const std::int64_t count = shape.rows * shape.columns;
        OwnedTensor gradient = random_tensor(DType::f32, {shape.rows, shape.columns}, 28);
        for (std::int64_t i = 0; i < count; i += 11) gradient.set(i, 0);
        OwnedTensor scores(DType::f32, {count}), changes(DType::u32, {count}), changed(DType::u8, {count});
        OwnedTensor all(DType::u32, {count});
        for (std::int64_t i = 0; i < count; ++i) all.set(i, static_cast<double>(i));
        for (const DType dtype : {DType::f32, DType::bf16}) {
            OwnedTensor moment(dtype, {shape.rows, shape.columns});
            moment.fill([next = 0]() mutable { return 0.01 + 0.02 * (++next % 9); });
            cpu::scalar_eager_score(scores, changes, matrix.scalar(), gradient, moment, 1.5F, 1e-8F);
            const Values s = values_of(matrix.scales), z = values_of(matrix.zeros), g = values_of(gradient);
            for (std::int64_t at = 0; at < count; ++at) {
                const auto i = static_cast<std::size_t>(at);
                const int now = matrix.codes->as<std::uint8_t>()[at];
                double best = 0;
                int best_code = now;
                for (int c = 0; c < shape.levels(); ++c) {
                    const double delta = matrix.value(at, c, s, z) - matrix.value(at, now, s, z);
                    if (delta == 0) continue;
                    const double value = -g[i] / (delta * (std::sqrt(values_of(moment)[i] * 1.5) + 1e-8));
                    if (value <= best) continue;
                    best = value;
                    best_code = c;
                }
                EXPECT_EQ(changes->as<std::uint32_t>()[at], static_cast<std::uint32_t>(best_code)) << at;
                if (best > 0) {
                    EXPECT_NEAR(scores->as<float>()[at], best, 1e-5 * best);
                } else {
                    EXPECT_EQ(scores->as<float>()[at], -INFINITY);
                }
            }
        }
        const ScalarMatrix before = matrix;
        cpu::apply_changes(matrix.codes, changed, changes, scores, all, shape.levels());
        for (std::int64_t at = 0; at < count; ++at) {
            EXPECT_EQ(matrix.codes->as<std::uint8_t>()[at], changes->as<std::uint32_t>()[at]);
            EXPECT_EQ(changed->as<std::uint8_t>()[at],
                      matrix.codes->as<std::uint8_t>()[at] != before.codes->as<std::uint8_t>()[at] ? 1 : 0);
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
        cpu::scalar_different(matrix.scalar(), changed, d_weight, chosen);
        OwnedTensor scores(DType::f32, {70 * 300}), changes(DType::u32, {70 * 300});
        cpu::scalar_eager_score(scores, changes, matrix.scalar(), d_weight, random_tensor(DType::f32, {70, 300}, 17), 1,
                                1e-8F);
        OwnedTensor weight(DType::bf16, {70, 300}), out(DType::f32, {1, 70});
        cpu::dequantize_scalar(weight, matrix.scalar());
        cpu::scalar_gemv(out, random_tensor(DType::f32, {1, 300}, 16), matrix.scalar(), {});
        return std::vector<OwnedTensor>{d_scales, d_zeros, matrix.codes, changed, scores, changes, weight, out};
    });
}

}  // namespace
}  // namespace pvtune
