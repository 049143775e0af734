// Operations on E8P codes behind Hadamard transforms against plain loops in double.
#include "cuda/e8p.h"
#include "host/backend/cpu/e8p_search.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/backend/hadamard.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

struct Shape {
    std::int64_t rows, columns, bytes;
};
constexpr Shape shapes[] = {{12, 24, 2}, {5, 16, 3}, {16, 40, 4}, {1, 8, 2}, {33, 72, 3}};

Values times(const Values& a, const Values& b, std::int64_t rows, std::int64_t inner, std::int64_t columns) {
    Values out(static_cast<std::size_t>(rows * columns));
    for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t k = 0; k < inner; ++k) {
            for (std::int64_t j = 0; j < columns; ++j) {
                out[static_cast<std::size_t>(i * columns + j)] +=
                    a[static_cast<std::size_t>(i * inner + k)] * b[static_cast<std::size_t>(k * columns + j)];
            }
        }
    }
    return out;
}

/// The transform's matrix: its effect on the unit vectors (hadamard_test holds it against its definition).
Values hadamard(std::int64_t size) {
    OwnedTensor units(DType::f32, {size, size});
    for (std::int64_t i = 0; i < size; ++i) units.set(i * size + i, 1);
    cpu::hadamard_transform(units);
    return values_of(units);
}

struct Lattice {
    Shape shape;
    OwnedTensor codes, scale, left, right;
    Values of_rows, of_columns;  ///< the transforms' matrices

    Lattice(const Shape& s, std::uint32_t seed)
        : shape(s),
          codes(DType::u8, {s.rows, s.columns / 8, s.bytes}),
          scale(random_tensor(DType::f32, {1}, seed)),
          left(random_tensor(DType::f32, {s.rows}, seed + 1)),
          right(random_tensor(DType::f32, {s.columns}, seed + 2)),
          of_rows(hadamard(s.rows)),
          of_columns(hadamard(s.columns)) {
        std::mt19937 engine(seed + 3);
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            codes->as<std::uint8_t>()[i] = static_cast<std::uint8_t>(engine());
        }
    }
    LatticeCodes lattice() const { return {codes, scale, left, right}; }
    std::int64_t elements() const { return shape.rows * shape.columns; }

    /// Of scale 1.
    Values decoded() const {
        Values out;
        for (std::int64_t g = 0; g < elements() / 8; ++g) {
            float values[8];
            cpu::decode_group(values, codes->as<std::uint8_t>() + g * shape.bytes, shape.bytes);
            for (const float value : values) out.push_back(static_cast<double>(value));
        }
        return out;
    }
    Values weights(const Values& decoded, double s, const Values& l, const Values& r) const {
        Values out = times(times(of_rows, decoded, shape.rows, shape.rows, shape.columns), of_columns, shape.rows,
                           shape.columns, shape.columns);
        for (std::size_t i = 0; i < out.size(); ++i) {
            out[i] *= s * l[i / r.size()] * r[i % r.size()];
        }
        return out;
    }
    Values weights() const { return weights(decoded(), values_of(scale)[0], values_of(left), values_of(right)); }
};

TEST(Lattice, DequantizeMatchesLoops) {
    for (const Shape& shape : shapes) {
        const Lattice lattice(shape, 1);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            OwnedTensor weight(dtype, {shape.rows, shape.columns});
            cpu::dequantize_lattice(weight, lattice.lattice());
            EXPECT_LT(relative_error(weight, lattice.weights()), dtype == DType::f32 ? 1e-6 : 4e-3);
        }
    }
}

TEST(Lattice, GradientsMatchDifferencesOfALoss) {
    for (const Shape& shape : shapes) {
        const Lattice lattice(shape, 3);
        // loss = <d_weight, W>: linear in scale, left, right and the decoded codes, each.
        const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, shape.columns}, 4);
        const Values gradient = values_of(d_weight);
        OwnedTensor d_scale = random_tensor(DType::f32, {1}, 5);
        OwnedTensor d_left = random_tensor(DType::f32, {shape.rows}, 6);
        OwnedTensor d_right = random_tensor(DType::f32, {shape.columns}, 7);
        cpu::lattice_gradient(d_scale, d_left, d_right, d_weight, lattice.lattice());
        const Values decoded = lattice.decoded();
        const Values scale = values_of(lattice.scale);
        const Values left = values_of(lattice.left);
        const Values right = values_of(lattice.right);
        const auto loss = [&](double s, const Values& l, const Values& r) {
            return dot(gradient, lattice.weights(decoded, s, l, r));
        };
        EXPECT_LT(relative_error(d_scale,
                                 numeric_gradient(scale, [&](const Values& at) { return loss(at[0], left, right); })),
                  1e-5);
        EXPECT_LT(
            relative_error(d_left, numeric_gradient(left, [&](const Values& at) { return loss(scale[0], at, right); })),
            1e-5);
        EXPECT_LT(relative_error(d_right,
                                 numeric_gradient(right, [&](const Values& at) { return loss(scale[0], left, at); })),
                  1e-5);
        if (lattice.elements() > 500) continue;  // the differences cost a whole matrix a weight
        OwnedTensor d_codes = d_weight;
        cpu::lattice_code_gradient(d_codes, lattice.lattice());
        const auto of_space = [&](const Values& at) { return dot(gradient, lattice.weights(at, 1, left, right)); };
        EXPECT_LT(relative_error(d_codes, numeric_gradient(decoded, of_space)), 1e-5);
    }
}

TEST(Lattice, TargetsGoToCodeSpaceBesideTheirScores) {
    for (const Shape& shape : shapes) {
        const Lattice lattice(shape, 5);
        const Values scale = values_of(lattice.scale);
        const Values left = values_of(lattice.left);
        const Values right = values_of(lattice.right);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const OwnedTensor weight = random_tensor(dtype, {shape.rows, shape.columns}, 6);
            OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.columns}, 7);
            const Values now = values_of(weight);
            Values difference = values_of(target);
            for (std::size_t i = 0; i < difference.size(); ++i) {
                difference[i] = (difference[i] - now[i]) * left[i / right.size()] * right[i % right.size()];
            }
            difference = times(times(lattice.of_rows, difference, shape.rows, shape.rows, shape.columns),
                               lattice.of_columns, shape.rows, shape.columns, shape.columns);
            Values squares(difference.size() / 8);
            Values expected = lattice.decoded();
            for (std::size_t i = 0; i < expected.size(); ++i) {
                expected[i] = expected[i] * scale[0] + difference[i];
                squares[i / 8] += difference[i] * difference[i];
            }
            const OwnedTensor scores(DType::f32, {static_cast<std::int64_t>(squares.size())});
            cpu::lattice_target(target, scores, target, weight, lattice.lattice());
            EXPECT_LT(relative_error(target, expected), 1e-6);
            EXPECT_LT(relative_error(scores, squares), 1e-5);
        }
    }
}

TEST(Lattice, RowProductsMatchTheWeights) {
    for (const Shape& shape : shapes) {
        const Lattice lattice(shape, 8);
        const OwnedTensor bias = random_tensor(DType::f32, {shape.rows}, 9);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const OwnedTensor in = random_tensor(dtype, {1, shape.columns}, 10);
            Values expected = times(lattice.weights(), values_of(in), shape.rows, shape.columns, 1);
            OwnedTensor out(dtype, {1, shape.rows});
            cpu::lattice_gemv(out, in, lattice.lattice(), {});
            EXPECT_LT(relative_error(out, expected), tolerance_of(dtype));
            for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += values_of(bias)[i];
            cpu::lattice_gemv(out, in, lattice.lattice(), bias);
            EXPECT_LT(relative_error(out, expected), tolerance_of(dtype));
        }
    }
}

TEST(Lattice, AssignsTheNearestAndNothingElse) {
    for (const Shape& shape : shapes) {
        Lattice lattice(shape, 11);
        const float scale = lattice.scale->as<float>()[0];
        OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.columns}, 12, std::fabs(scale) * 2);
        const std::int64_t groups = lattice.elements() / 8;
        if (groups > 2) target.set(8, NAN);  // group 1 keeps its codes
        OwnedTensor chosen(DType::u32, {groups / 2 + 1});
        chosen.fill([next = -1]() mutable { return next = next < 0 ? 0 : next + (next == 0 ? 1 : 2); });
        chosen.set(chosen->elements() - 1, static_cast<double>(groups - 1));
        const OwnedTensor before = lattice.codes;
        OwnedTensor changed(DType::u8, {chosen->elements()});
        cpu::assign_lattice(lattice.lattice(), changed, target, chosen);

        std::vector<bool> is_chosen(static_cast<std::size_t>(groups));
        for (std::int64_t i = 0; i < chosen->elements(); ++i) {
            const std::int64_t g = chosen->as<std::uint32_t>()[i];
            is_chosen[static_cast<std::size_t>(g)] = true;
            const std::uint8_t* now = lattice.codes->as<std::uint8_t>() + g * shape.bytes;
            const std::uint8_t* old = before->as<std::uint8_t>() + g * shape.bytes;
            float x[8];
            for (std::int64_t j = 0; j < 8; ++j) x[j] = target->as<float>()[g * 8 + j] * (1 / scale);
            EXPECT_EQ(changed->as<std::uint8_t>()[i] != 0, !std::equal(now, now + shape.bytes, old));
            if (!std::isfinite(x[0])) {
                EXPECT_TRUE(std::equal(now, now + shape.bytes, old));
                continue;
            }
            // At 2 bits the nearest of all points, and never farther than before.
            const float distance = cpu::group_distance(x, now, shape.bytes);
            EXPECT_LE(distance, cpu::group_distance(x, old, shape.bytes));
            if (shape.bytes > 2) {
                std::uint8_t greedy[4];
                cpu::encode_group(greedy, x, shape.bytes);
                EXPECT_LE(distance, cpu::group_distance(x, greedy, shape.bytes));
                continue;
            }
            for (std::uint32_t code = 0; code < 65536; ++code) {
                const std::uint8_t other[] = {static_cast<std::uint8_t>(code & 0xff),
                                              static_cast<std::uint8_t>(code >> 8)};
                ASSERT_LE(distance, cpu::group_distance(x, other, 2) * 1.000001F) << code;
            }
        }
        for (std::int64_t g = 0; g < groups; ++g) {
            if (is_chosen[static_cast<std::size_t>(g)]) continue;
            for (std::int64_t b = 0; b < shape.bytes; ++b) {
                EXPECT_EQ(lattice.codes->as<std::uint8_t>()[g * shape.bytes + b],
                          before->as<std::uint8_t>()[g * shape.bytes + b]);
            }
        }
        // How far the chosen groups went, against the decoded codes.
        Lattice old = lattice;
        old.codes = before;
        const Values now_values = lattice.decoded();
        const Values old_values = old.decoded();
        OwnedTensor saved(DType::u8, {chosen->elements(), shape.bytes});
        cpu::gather_codes(saved, before, chosen);
        OwnedTensor change(DType::f32, {chosen->elements()});
        cpu::lattice_change(change, lattice.lattice(), saved, chosen);
        Values expected;
        for (std::int64_t i = 0; i < chosen->elements(); ++i) {
            double sum = 0;
            for (std::size_t j = 0; j < 8; ++j) {
                const std::size_t at = chosen->as<std::uint32_t>()[i] * std::size_t{8} + j;
                sum += std::pow(static_cast<double>(scale) * (now_values[at] - old_values[at]), 2);
            }
            expected.push_back(sum);
        }
        EXPECT_LT(relative_error(change, expected), 1e-5);
        OwnedTensor keep(DType::u8, {chosen->elements()});
        cpu::restore_codes(lattice.codes, saved, chosen, keep);
        EXPECT_TRUE(same_bits(lattice.codes, before));
    }
}

TEST(Lattice, TheNearestOtherCodesOfAll) {
    for (const Shape& shape : {Shape{1, 24, 2}, Shape{2, 16, 3}, Shape{1, 24, 4}}) {
        for (const bool ties : {false, true}) {
            Lattice lattice(shape, 21);
            if (ties) lattice.scale.set(0, 1);
            const float scale = lattice.scale->as<float>()[0];
            const std::int64_t groups = lattice.elements() / 8;
            OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.columns}, 22, std::fabs(scale) * 2);
            std::mt19937 engine(23);
            if (ties) target.fill([&] { return 0.5 * (static_cast<int>(engine() % 7) - 3); });
            OwnedTensor all(DType::u32, {groups}), changed(DType::u8, {groups});
            all.fill([next = 0]() mutable { return next++; });
            if (!ties) cpu::assign_lattice(lattice.lattice(), changed, target, all);  // on their nearest codes
            const OwnedTensor before = lattice.codes;
            changed.fill([] { return 0; });
            changed->as<std::uint8_t>()[groups - 1] = 1;
            cpu::lattice_different(lattice.lattice(), changed, target, all);
            for (std::int64_t g = 0; g < groups; ++g) {
                const std::uint8_t* now = lattice.codes->as<std::uint8_t>() + g * shape.bytes;
                const std::uint8_t* old = before->as<std::uint8_t>() + g * shape.bytes;
                EXPECT_EQ(changed->as<std::uint8_t>()[g], 1);
                EXPECT_EQ(std::equal(now, now + shape.bytes, old), g == groups - 1);
                if (g == groups - 1) continue;
                float x[8];
                for (std::int64_t j = 0; j < 8; ++j) x[j] = target->as<float>()[g * 8 + j] * (1 / scale);
                float least = INFINITY;
                const auto attempt = [&](const std::uint8_t* codes) {
                    if (!std::equal(codes, codes + shape.bytes, old)) {
                        least = std::min(least, cpu::group_distance(x, codes, shape.bytes));
                    }
                };
                for (const std::int64_t at : {0, 2}) {
                    if (at >= shape.bytes) continue;
                    std::uint8_t codes[4];
                    std::copy_n(old, shape.bytes, codes);
                    const std::uint32_t count = at + 1 < shape.bytes ? 65536 : 256;
                    for (std::uint32_t code = 0; code < count; ++code) {
                        codes[at] = static_cast<std::uint8_t>(code & 0xff);
                        if (count > 256) codes[at + 1] = static_cast<std::uint8_t>(code >> 8);
                        attempt(codes);
                    }
                }
                EXPECT_LE(cpu::group_distance(x, now, shape.bytes), least * 1.00001F + 1e-6F) << g;
            }
        }
    }
}

TEST(Lattice, DistanceAndProductMatchLoops) {
    for (const Shape& shape : shapes) {
        const Lattice lattice(shape, 24);
        Lattice earlier = lattice;
        earlier.codes = Lattice(shape, 25).codes;
        const std::int64_t groups = lattice.elements() / 8;
        const OwnedTensor dense = random_tensor(DType::f32, {shape.rows, shape.columns}, 26);
        OwnedTensor chosen(DType::u32, {(groups + 1) / 2});
        chosen.fill([next = -2]() mutable { return next += 2; });
        OwnedTensor saved(DType::u8, {chosen->elements(), shape.bytes});
        cpu::gather_codes(saved, earlier.codes, chosen);
        OwnedTensor product(DType::f32, {chosen->elements()}), distance(DType::f32, {chosen->elements()});
        cpu::lattice_product(product, lattice.lattice(), dense, saved, chosen);
        cpu::lattice_distance(distance, lattice.lattice(), dense, chosen);
        const double scale = values_of(lattice.scale)[0];
        const Values now = lattice.decoded(), old = earlier.decoded(), d = values_of(dense);
        Values products(static_cast<std::size_t>(chosen->elements())), distances = products;
        for (std::size_t i = 0; i < products.size(); ++i) {
            for (std::size_t j = 0; j < 8; ++j) {
                const std::size_t at = chosen->as<std::uint32_t>()[i] * std::size_t{8} + j;
                products[i] += d[at] * scale * (now[at] - old[at]);
                distances[i] += std::pow(d[at] - scale * now[at], 2);
            }
        }
        EXPECT_LT(relative_error(product, products), 1e-5);
        EXPECT_LT(relative_error(distance, distances), 1e-5);
    }
}

TEST(Lattice, AScaleOfZeroKeepsTheCodes) {
    Lattice lattice({8, 16, 2}, 13);
    lattice.scale.set(0, 0);
    const OwnedTensor before = lattice.codes;
    OwnedTensor groups = random_ids(3, 1, 0);
    groups.set(1, 4);
    groups.set(2, 7);
    OwnedTensor changed(DType::u8, {3});
    cpu::assign_lattice(lattice.lattice(), changed, random_tensor(DType::f32, {8, 16}, 1), groups);
    cpu::lattice_different(lattice.lattice(), changed, random_tensor(DType::f32, {8, 16}, 1), groups);
    EXPECT_TRUE(same_bits(lattice.codes, before));
    OwnedTensor weight = random_tensor(DType::f32, {8, 16}, 1);
    cpu::dequantize_lattice(weight, lattice.lattice());
    EXPECT_EQ(relative_error(weight, Values(128)), 0);
}

TEST(Lattice, SameBitsForAnyThreads) {
    const Shape shape{70, 192, 3};
    expect_same_bits_for_any_threads([&] {
        Lattice lattice(shape, 14);
        std::vector<OwnedTensor> results;
        const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, shape.columns}, 15);
        OwnedTensor weight(DType::f32, {shape.rows, shape.columns});
        cpu::dequantize_lattice(weight, lattice.lattice());
        results.push_back(weight);
        OwnedTensor d_scale(DType::f32, {1});
        OwnedTensor d_left(DType::f32, {shape.rows});
        OwnedTensor d_right(DType::f32, {shape.columns});
        cpu::lattice_gradient(d_scale, d_left, d_right, d_weight, lattice.lattice());
        results.insert(results.end(), {d_scale, d_left, d_right});
        OwnedTensor turned = d_weight;
        cpu::lattice_code_gradient(turned, lattice.lattice());
        results.push_back(turned);
        OwnedTensor out(DType::f32, {1, shape.rows});
        cpu::lattice_gemv(out, random_tensor(DType::f32, {1, shape.columns}, 16), lattice.lattice(), {});
        results.push_back(out);
        OwnedTensor groups(DType::u32, {600});
        groups.fill([next = 0]() mutable { return next++; });
        OwnedTensor changed(DType::u8, {600});
        cpu::assign_lattice(lattice.lattice(), changed, turned, groups);
        results.push_back(changed);
        cpu::lattice_different(lattice.lattice(), changed, turned, groups);
        results.push_back(lattice.codes);
        return results;
    });
}

}  // namespace
}  // namespace pvtune
