// Additive codebooks on the CPU against plain loops: dequantising, gradients, the search for codes.
#include "host/backend/cpu/beam_search.h"
#include "host/backend/cpu/quant_ops.h"
#include "tests/tensors.h"

#include <numeric>

namespace pvtune {
namespace {

using namespace testing;

struct Shape {
    std::int64_t rows, groups, group, books, size;
    DType codes;
};

const Shape shapes[] = {
    {5, 7, 8, 2, 256, DType::u8},   {3, 5, 4, 1, 256, DType::u8},   {33, 3, 16, 3, 20, DType::u8},
    {17, 9, 8, 2, 300, DType::u16}, {2, 1, 4, 4, 2, DType::u8},     {40, 11, 8, 1, 1000, DType::u16},
    {70, 4, 16, 1, 16, DType::u8},  {1, 130, 8, 3, 33, DType::u16},
};

/// A quantised matrix with random values.
struct Matrix {
    Shape shape;
    OwnedTensor codes;
    OwnedTensor codebooks;
    OwnedTensor scales;

    Matrix(const Shape& s, std::uint32_t seed)
        : shape(s),
          codes(s.codes, {s.rows, s.groups, s.books}),
          codebooks(random_tensor(DType::f32, {s.books, s.size, s.group}, seed)),
          scales(random_tensor(DType::f32, {s.rows}, seed + 1)) {
        std::mt19937 engine(seed + 2);
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            set_code(i, static_cast<std::int64_t>(engine() % static_cast<std::uint32_t>(s.size)));
        }
    }
    AdditiveCodes additive() const { return {codes, codebooks, scales}; }
    std::int64_t code(std::int64_t i) const {
        return shape.codes == DType::u8 ? codes->as<std::uint8_t>()[i] : codes->as<std::uint16_t>()[i];
    }
    void set_code(std::int64_t i, std::int64_t value) {
        if (shape.codes == DType::u8) codes->as<std::uint8_t>()[i] = static_cast<std::uint8_t>(value);
        if (shape.codes == DType::u16) codes->as<std::uint16_t>()[i] = static_cast<std::uint16_t>(value);
    }
    std::int64_t elements() const { return shape.rows * shape.groups * shape.group; }
    /// Every weight in double, from codebooks and scales in double.
    Values weights(const Values& books, const Values& row_scales) const {
        Values out(static_cast<std::size_t>(elements()));
        for (std::int64_t i = 0; i < elements(); ++i) {
            const std::int64_t g = i / shape.group;
            double sum = 0;
            for (std::int64_t m = 0; m < shape.books; ++m) {
                const std::int64_t at = (m * shape.size + code(g * shape.books + m)) * shape.group + i % shape.group;
                sum += books[static_cast<std::size_t>(at)];
            }
            out[static_cast<std::size_t>(i)] = sum * row_scales[static_cast<std::size_t>(g / shape.groups)];
        }
        return out;
    }
    /// |target - scale * sum|^2 of group g with the given codes.
    double distance(Tensor target, std::int64_t g, const std::vector<std::int64_t>& chosen) const {
        double sum = 0;
        for (std::int64_t i = 0; i < shape.group; ++i) {
            double value = 0;
            for (std::int64_t m = 0; m < shape.books; ++m) {
                const std::int64_t at = (m * shape.size + chosen[static_cast<std::size_t>(m)]) * shape.group + i;
                value += static_cast<double>(codebooks->as<float>()[at]);
            }
            value *= static_cast<double>(scales->as<float>()[g / shape.groups]);
            value -= static_cast<double>(target.as<float>()[g * shape.group + i]);
            sum += value * value;
        }
        return sum;
    }
    std::vector<std::int64_t> codes_of(std::int64_t g) const {
        std::vector<std::int64_t> out;
        for (std::int64_t m = 0; m < shape.books; ++m) out.push_back(code(g * shape.books + m));
        return out;
    }
};

OwnedTensor all_groups(const Matrix& matrix) {
    OwnedTensor groups(DType::u32, {matrix.shape.rows * matrix.shape.groups});
    groups.fill([next = 0]() mutable { return next++; });
    return groups;
}

TEST(DequantizeAdditive, MatchesLoops) {
    for (const Shape& shape : shapes) {
        const Matrix matrix(shape, 1);
        const Values expected = matrix.weights(values_of(matrix.codebooks), values_of(matrix.scales));
        for (const DType dtype : {DType::f32, DType::bf16}) {
            OwnedTensor weight(dtype, {shape.rows, shape.groups * shape.group});
            cpu::dequantize_additive(weight, matrix.additive());
            EXPECT_LT(relative_error(weight, expected), dtype == DType::f32 ? 1e-6 : 4e-3);
        }
    }
}

TEST(AdditiveGradient, MatchesDifferencesOfALoss) {
    for (const Shape& shape : shapes) {
        const Matrix matrix(shape, 3);
        // loss = <d_weight, What>: linear in codebooks and scales each.
        const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, shape.groups * shape.group}, 4);
        OwnedTensor d_codebooks = random_tensor(DType::f32, {shape.books, shape.size, shape.group}, 5);
        OwnedTensor d_scales = random_tensor(DType::f32, {shape.rows}, 6);
        cpu::additive_gradient(d_codebooks, d_scales, d_weight, matrix.additive());
        const Values books = values_of(matrix.codebooks);
        const Values scales = values_of(matrix.scales);
        const Values gradient = values_of(d_weight);
        const auto of_scales = [&](const Values& at) { return dot(gradient, matrix.weights(books, at)); };
        EXPECT_LT(relative_error(d_scales, numeric_gradient(scales, of_scales)), 1e-5);
        if (books.size() > 1500) continue;  // the differences cost a whole matrix a parameter
        const auto of_books = [&](const Values& at) { return dot(gradient, matrix.weights(at, scales)); };
        EXPECT_LT(relative_error(d_codebooks, numeric_gradient(books, of_books)), 1e-5);
    }
}

TEST(AdditiveGradient, MatchesLoopsWithLargeCodebooks) {
    const Matrix matrix({37, 20, 8, 2, 4000, DType::u16}, 7);
    const Shape& shape = matrix.shape;
    const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, shape.groups * shape.group}, 8);
    OwnedTensor d_codebooks(DType::f32, {shape.books, shape.size, shape.group});
    OwnedTensor d_scales(DType::f32, {shape.rows});
    cpu::additive_gradient(d_codebooks, d_scales, d_weight, matrix.additive());
    Values expected(static_cast<std::size_t>(d_codebooks->elements()));
    for (std::int64_t i = 0; i < matrix.elements(); ++i) {
        const std::int64_t g = i / shape.group;
        for (std::int64_t m = 0; m < shape.books; ++m) {
            const std::int64_t at = (m * shape.size + matrix.code(g * shape.books + m)) * shape.group + i % shape.group;
            expected[static_cast<std::size_t>(at)] +=
                static_cast<double>(matrix.scales->as<float>()[g / shape.groups] * d_weight->as<float>()[i]);
        }
    }
    EXPECT_LT(relative_error(d_codebooks, expected), 1e-6);
}

TEST(AssignAdditive, OneCodebookGivesTheNearest) {
    for (const Shape& shape : shapes) {
        if (shape.books != 1) continue;
        Matrix matrix(shape, 11);
        const OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.groups * shape.group}, 12);
        const OwnedTensor groups = all_groups(matrix);
        OwnedTensor changed(DType::u8, {groups->elements()});
        cpu::assign_additive(matrix.additive(), changed, target, groups, 1);
        for (std::int64_t g = 0; g < groups->elements(); ++g) {
            double least = INFINITY;
            for (std::int64_t k = 0; k < shape.size; ++k) least = std::min(least, matrix.distance(target, g, {k}));
            EXPECT_LE(matrix.distance(target, g, matrix.codes_of(g)), least * (1 + 1e-5) + 1e-10);
        }
    }
}

TEST(AssignAdditive, NeverFartherThanBeforeAndSaysWhatChanged) {
    for (const Shape& shape : shapes) {
        for (const int beam : {1, 2, 5, 40}) {
            Matrix matrix(shape, 13);
            const Matrix before = matrix;
            const OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.groups * shape.group}, 14);
            // Every second group, from the end: the order of the list is the caller's.
            const std::int64_t all = shape.rows * shape.groups;
            OwnedTensor groups(DType::u32, {(all + 1) / 2});
            for (std::int64_t i = 0; i < groups->elements(); ++i) groups.set(i, static_cast<double>(all - 1 - 2 * i));
            OwnedTensor changed(DType::u8, {groups->elements()});
            cpu::assign_additive(matrix.additive(), changed, target, groups, beam);
            std::vector<bool> chosen(static_cast<std::size_t>(all));
            for (std::int64_t i = 0; i < groups->elements(); ++i) {
                const std::int64_t g = groups->as<std::uint32_t>()[i];
                chosen[static_cast<std::size_t>(g)] = true;
                const auto now = matrix.codes_of(g);
                const auto then = before.codes_of(g);
                EXPECT_EQ(changed->as<std::uint8_t>()[i], now != then ? 1 : 0);
                for (const std::int64_t code : now) EXPECT_LT(code, shape.size);
                EXPECT_LE(matrix.distance(target, g, now), matrix.distance(target, g, then) * (1 + 1e-5) + 1e-10);
            }
            for (std::int64_t g = 0; g < all; ++g) {
                if (!chosen[static_cast<std::size_t>(g)]) {
                    EXPECT_EQ(matrix.codes_of(g), before.codes_of(g));
                }
            }
        }
    }
}

TEST(AssignAdditive, AWideBeamFindsTheBestPair) {
    // A beam as wide as a codebook makes the second step see every pair.
    for (const std::int64_t size : {5, 16, 20}) {
        Matrix matrix({6, 5, 8, 2, size, DType::u8}, 15);
        const OwnedTensor target = random_tensor(DType::f32, {6, 40}, 16);
        const OwnedTensor groups = all_groups(matrix);
        OwnedTensor changed(DType::u8, {groups->elements()});
        cpu::assign_additive(matrix.additive(), changed, target, groups, static_cast<int>(size));
        for (std::int64_t g = 0; g < groups->elements(); ++g) {
            double least = INFINITY;
            for (std::int64_t a = 0; a < size; ++a) {
                for (std::int64_t b = 0; b < size; ++b) least = std::min(least, matrix.distance(target, g, {a, b}));
            }
            EXPECT_LE(matrix.distance(target, g, matrix.codes_of(g)), least * (1 + 1e-5) + 1e-10);
        }
    }
}

TEST(AssignAdditive, TiesGoToTheLowerCode) {
    Matrix matrix({1, 2, 4, 1, 20, DType::u8}, 17);
    float* book = matrix.codebooks->as<float>();
    for (const int copy : {9, 19}) std::copy_n(book + 3 * 4, 4, book + copy * 4);
    matrix.scales.set(0, 1);
    OwnedTensor target(DType::f32, {1, 8});
    for (std::int64_t i = 0; i < 8; ++i) target.set(i, static_cast<double>(book[3 * 4 + i % 4]));
    matrix.set_code(0, 9);
    matrix.set_code(1, 19);
    OwnedTensor changed(DType::u8, {2});
    cpu::assign_additive(matrix.additive(), changed, target, all_groups(matrix), 1);
    EXPECT_EQ(matrix.code(0), 3);
    EXPECT_EQ(matrix.code(1), 3);
}

TEST(AssignAdditive, ScalesOfEverySign) {
    // Rows of scale 0, of a scale whose reciprocal overflows, and with a NaN in the target keep their codes; a negative
    // scale is like any other.
    Matrix matrix({4, 3, 8, 2, 30, DType::u8}, 18);
    const double row_scales[] = {0, 1e-42, -0.7, 1.0};
    for (std::int64_t row = 0; row < 4; ++row) matrix.scales.set(row, row_scales[row]);
    OwnedTensor target = random_tensor(DType::f32, {4, 24}, 19);
    for (std::int64_t g = 9; g < 12; ++g) target.set(g * 8 + 3, NAN);
    const Matrix before = matrix;
    OwnedTensor changed(DType::u8, {12});
    cpu::assign_additive(matrix.additive(), changed, target, all_groups(matrix), 30);
    for (std::int64_t g = 0; g < 12; ++g) {
        if (g / 3 != 2) {
            EXPECT_EQ(matrix.codes_of(g), before.codes_of(g)) << g;
            continue;
        }
        double least = INFINITY;
        for (std::int64_t a = 0; a < 30; ++a) {
            for (std::int64_t b = 0; b < 30; ++b) least = std::min(least, matrix.distance(target, g, {a, b}));
        }
        EXPECT_LE(matrix.distance(target, g, matrix.codes_of(g)), least * (1 + 1e-5));
    }
}

TEST(BeamSearch, CrossProductsChangeNothingButRounding) {
    const std::int64_t count = 200;
    for (const std::int64_t books : {2, 3}) {
        const OwnedTensor codebooks = random_tensor(DType::f32, {books, 64, 8}, 20);
        const OwnedTensor targets = random_tensor(DType::f32, {count, 8}, 21);
        const cpu::BeamSettings settings{6, 2};
        const auto with = cpu::make_codebook_tables(codebooks->as<float>(), books, 64, 8, count, settings);
        const auto without = cpu::make_codebook_tables(codebooks->as<float>(), books, 64, 8, 1, settings);
        ASSERT_FALSE(with.cross.empty());
        ASSERT_TRUE(without.cross.empty());
        std::vector<std::uint16_t> a(static_cast<std::size_t>(count * books));
        std::vector<std::uint16_t> b = a;
        cpu::search_codes(with, targets->as<float>(), a.data(), count, settings);
        cpu::search_codes(without, targets->as<float>(), b.data(), count, settings);
        int different = 0;
        for (std::int64_t g = 0; g < count; ++g) {
            const float* target = targets->as<float>() + g * 8;
            const float one = cpu::code_distance(with, target, a.data() + g * books);
            const float other = cpu::code_distance(with, target, b.data() + g * books);
            different += std::abs(one - other) > 1e-5F * one;
        }
        EXPECT_LE(different, 2);  // a near tie may prune the beam differently
    }
}

TEST(AdditiveOps, SameBitsForAnyThreads) {
    for (const Shape& shape : {Shape{70, 30, 8, 2, 256, DType::u8}, Shape{70, 30, 8, 1, 500, DType::u16}}) {
        expect_same_bits_for_any_threads([&] {
            Matrix matrix(shape, 22);
            const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, shape.groups * shape.group}, 23);
            OwnedTensor d_codebooks(DType::f32, {shape.books, shape.size, shape.group});
            OwnedTensor d_scales(DType::f32, {shape.rows});
            cpu::additive_gradient(d_codebooks, d_scales, d_weight, matrix.additive());
            const OwnedTensor groups = all_groups(matrix);
            OwnedTensor changed(DType::u8, {groups->elements()});
            cpu::assign_additive(matrix.additive(), changed, d_weight, groups, 5);
            OwnedTensor weight(DType::bf16, {shape.rows, shape.groups * shape.group});
            cpu::dequantize_additive(weight, matrix.additive());
            return std::vector<OwnedTensor>{d_codebooks, d_scales, matrix.codes, changed, weight};
        });
    }
}

/// Weight i of group g with the given codes, in double.
double weight_of(const Matrix& matrix, std::int64_t g, const std::vector<std::int64_t>& codes, std::int64_t i) {
    double sum = 0;
    for (std::int64_t m = 0; m < matrix.shape.books; ++m) {
        const std::int64_t at = (m * matrix.shape.size + codes[static_cast<std::size_t>(m)]) * matrix.shape.group + i;
        sum += static_cast<double>(matrix.codebooks->as<float>()[at]);
    }
    return sum * static_cast<double>(matrix.scales->as<float>()[g / matrix.shape.groups]);
}

/// Calls body(codes) for every encoding that differs from the present one of group g in one code.
template <class Body>
void for_single_changes(const Matrix& matrix, std::int64_t g, const Body& body) {
    const std::vector<std::int64_t> present = matrix.codes_of(g);
    for (std::size_t m = 0; m < present.size(); ++m) {
        std::vector<std::int64_t> codes = present;
        for (codes[m] = 0; codes[m] < matrix.shape.size; ++codes[m]) {
            if (codes[m] != present[m]) body(codes);
        }
    }
}

TEST(AssignDifferent, TakesTheNearestSingleChange) {
    for (const Shape& shape : shapes) {
        const Matrix before(shape, 50);
        Matrix matrix = before;
        const OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.groups * shape.group}, 51);
        const OwnedTensor groups = all_groups(matrix);
        OwnedTensor changed(DType::u8, {groups->elements()});
        changed->as<std::uint8_t>()[0] = 1;  // has changed already: stays
        cpu::assign_different(matrix.additive(), changed, target, groups);
        EXPECT_EQ(matrix.codes_of(0), before.codes_of(0));
        for (std::int64_t g = 1; g < groups->elements(); ++g) {
            double best = INFINITY;
            for_single_changes(before, g, [&](const std::vector<std::int64_t>& codes) {
                best = std::min(best, before.distance(target, g, codes));
            });
            const auto found = matrix.codes_of(g);
            const auto present = before.codes_of(g);
            int differences = 0;
            for (std::size_t m = 0; m < found.size(); ++m) differences += found[m] != present[m] ? 1 : 0;
            EXPECT_EQ(differences, 1);
            EXPECT_LE(before.distance(target, g, found), best * (1 + 1e-5));
            EXPECT_EQ(changed->as<std::uint8_t>()[g], 1);
        }
    }
}

TEST(AssignDifferent, LeavesWhatIsOfNoUse) {
    Matrix matrix({3, 2, 4, 2, 8, DType::u8}, 52);
    OwnedTensor target = random_tensor(DType::f32, {3, 8}, 53);
    target.set(3, NAN);       // group 0
    matrix.scales.set(1, 0);  // groups 2 and 3
    const Matrix before = matrix;
    OwnedTensor changed(DType::u8, {6});
    cpu::assign_different(matrix.additive(), changed, target, all_groups(matrix));
    for (std::int64_t g = 0; g < 6; ++g) {
        const bool usable = g == 1 || g > 3;
        EXPECT_EQ(changed->as<std::uint8_t>()[g], usable ? 1 : 0);
        EXPECT_EQ(matrix.codes_of(g) == before.codes_of(g), !usable);
    }
    // With one codeword there is no other.
    Matrix only({2, 1, 4, 1, 1, DType::u8}, 54);
    OwnedTensor none(DType::u8, {2});
    cpu::assign_different(only.additive(), none, random_tensor(DType::f32, {2, 4}, 55), all_groups(only));
    EXPECT_EQ(cpu::count_flags(none), 0U);
}

TEST(EagerScore, IsTheBestOfAllSingleChanges) {
    for (const Shape& shape : shapes) {
        for (const DType moment_type : {DType::f32, DType::bf16}) {
            Matrix matrix(shape, 60);
            if (shape.rows > 2) matrix.scales.set(1, 0);
            const std::int64_t columns = shape.groups * shape.group;
            const OwnedTensor gradient = random_tensor(DType::f32, {shape.rows, columns}, 61);
            OwnedTensor moment(moment_type, {shape.rows, columns});
            moment.fill([next = 0]() mutable { return 0.01 + 0.02 * (++next % 9); });
            const Values g = values_of(gradient);
            const Values v = values_of(moment);
            const OwnedTensor groups = all_groups(matrix);
            OwnedTensor scores(DType::f32, {groups->elements()});
            OwnedTensor changes(DType::u32, {groups->elements()});
            cpu::eager_score(scores, changes, matrix.additive(), gradient, moment, 1.5F, 1e-8F);
            const Matrix before = matrix;
            OwnedTensor changed(DType::u8, {groups->elements()});
            cpu::apply_changes(matrix.codes, changed, changes, scores, groups, shape.size);
            for (std::int64_t j = 0; j < groups->elements(); ++j) {
                const auto present = before.codes_of(j);
                const auto score_of = [&](const std::vector<std::int64_t>& codes) {
                    double product = 0;
                    double square = 0;
                    for (std::int64_t i = 0; i < shape.group; ++i) {
                        const auto at = static_cast<std::size_t>(j * shape.group + i);
                        const double delta = weight_of(before, j, codes, i) - weight_of(before, j, present, i);
                        product += g[at] * delta;
                        square += (std::sqrt(v[at] * 1.5) + 1e-8) * delta * delta;
                    }
                    return -product / square;
                };
                double best = -INFINITY;
                if (before.scales->as<float>()[j / shape.groups] != 0) {
                    for_single_changes(before, j, [&](const std::vector<std::int64_t>& codes) {
                        best = std::max(best, score_of(codes));
                    });
                }
                const auto score = static_cast<double>(scores->as<float>()[j]);
                if (!std::isfinite(best)) {
                    EXPECT_EQ(score, best);
                } else {
                    EXPECT_NEAR(score, best, 1e-4 * std::abs(best) + 1e-5);
                }
                EXPECT_EQ(changed->as<std::uint8_t>()[j] != 0, score > 0);
                if (score > 0) {
                    EXPECT_NEAR(score_of(matrix.codes_of(j)), best, 1e-4 * best + 1e-5);
                } else {
                    EXPECT_EQ(matrix.codes_of(j), present);
                }
            }
        }
    }
}

TEST(SingleChanges, SameBitsForAnyThreads) {
    expect_same_bits_for_any_threads([] {
        Matrix matrix({70, 30, 8, 2, 64, DType::u8}, 62);
        const OwnedTensor gradient = random_tensor(DType::f32, {70, 240}, 63);
        OwnedTensor moment(DType::f32, {70, 240});
        moment.fill([] { return 0.1; });
        OwnedTensor scores(DType::f32, {2100});
        OwnedTensor changes(DType::u32, {2100});
        cpu::eager_score(scores, changes, matrix.additive(), gradient, moment, 1, 1e-8F);
        OwnedTensor changed(DType::u8, {2100});
        cpu::assign_different(matrix.additive(), changed, gradient, all_groups(matrix));
        return std::vector<OwnedTensor>{scores, changes, matrix.codes};
    });
}

TEST(CodeChanges, DistancesAndProductsMatchLoops) {
    for (const Shape& shape : shapes) {
        const Matrix matrix(shape, 70);
        const Matrix earlier(shape, 72);  // gives other codes
        const OwnedTensor dense = random_tensor(DType::f32, {shape.rows, shape.groups * shape.group}, 74);
        const OwnedTensor groups = all_groups(matrix);
        const std::int64_t count = groups->elements();
        OwnedTensor saved(shape.codes, {count, shape.books});
        cpu::gather_codes(saved, earlier.codes, groups);
        OwnedTensor distance(DType::f32, {count});
        OwnedTensor product(DType::f32, {count});
        cpu::code_distance(distance, matrix.additive(), dense, groups);
        cpu::code_product(product, matrix.additive(), dense, saved, groups);
        Values distances, products;
        for (std::int64_t g = 0; g < count; ++g) {
            distances.push_back(matrix.distance(dense, g, matrix.codes_of(g)));
            double sum = 0;
            for (std::int64_t i = 0; i < shape.group; ++i) {
                sum += static_cast<double>(dense->as<float>()[g * shape.group + i]) *
                       (weight_of(matrix, g, matrix.codes_of(g), i) - weight_of(matrix, g, earlier.codes_of(g), i));
            }
            products.push_back(sum);
        }
        EXPECT_LT(relative_error(distance, distances), 1e-5);
        EXPECT_LT(relative_error(product, products), 1e-5);
    }
}

}  // namespace
}  // namespace pvtune
