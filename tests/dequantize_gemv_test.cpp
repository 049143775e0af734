// Products straight from codes on the CPU against plain loops in double.
#include "host/backend/cpu/quant_ops.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace testing;

struct Shape {
    std::int64_t rows, groups, group, books, size;
    DType codes;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    return out << shape.rows << " rows of " << shape.groups << " groups of " << shape.group << ", " << shape.books
               << " codebooks of " << shape.size << ", " << name_of(shape.codes);
}

// Rows that end inside a chunk and inside the rows summed at once; every group, one book to many, both types of codes.
const Shape shapes[] = {
    {1, 1, 4, 1, 16, DType::u8},      {5, 7, 8, 2, 256, DType::u8},    {67, 64, 8, 2, 200, DType::u8},
    {33, 3, 16, 3, 20, DType::u8},    {35, 45, 16, 2, 256, DType::u8}, {17, 9, 4, 3, 256, DType::u8},
    {16, 33, 4, 2, 16, DType::u8},    {1, 130, 8, 3, 33, DType::u16},  {40, 11, 8, 1, 1000, DType::u16},
    {6, 70, 16, 2, 2000, DType::u16}, {70, 4, 16, 1, 16, DType::u8},   {3, 10, 4, 8, 300, DType::u16},
    {21, 5, 8, 1, 65536, DType::u16},
};

/// A quantised matrix with random values; every third row has scale 0.
struct Matrix {
    Shape shape;
    OwnedTensor codes, codebooks, scales;

    explicit Matrix(const Shape& s)
        : shape(s),
          codes(s.codes, {s.rows, s.groups, s.books}),
          codebooks(random_tensor(DType::f32, {s.books, s.size, s.group}, 1)),
          scales(random_tensor(DType::f32, {s.rows}, 2)) {
        std::mt19937 engine(3);
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            const auto code = engine() % static_cast<std::uint32_t>(s.size);
            if (s.codes == DType::u8) codes->as<std::uint8_t>()[i] = static_cast<std::uint8_t>(code);
            if (s.codes == DType::u16) codes->as<std::uint16_t>()[i] = static_cast<std::uint16_t>(code);
        }
        for (std::int64_t row = 1; row < s.rows; row += 3) scales.set(row, 0);
    }
    AdditiveCodes additive() const { return {codes, codebooks, scales}; }
    std::int64_t code(std::int64_t i) const {
        return shape.codes == DType::u8 ? codes->as<std::uint8_t>()[i] : codes->as<std::uint16_t>()[i];
    }
    Values times(const Values& in) const {
        const Values books = values_of(codebooks);
        Values out;
        for (std::int64_t row = 0; row < shape.rows; ++row) {
            double sum = 0;
            for (std::int64_t i = 0; i < shape.groups * shape.group * shape.books; ++i) {
                const std::int64_t column = i / shape.books;
                const std::int64_t m = i % shape.books;
                const std::int64_t group = row * shape.groups + column / shape.group;
                const std::int64_t codeword = m * shape.size + code(group * shape.books + m);
                sum += books[static_cast<std::size_t>(codeword * shape.group + column % shape.group)] *
                       in[static_cast<std::size_t>(column)];
            }
            out.push_back(sum * static_cast<double>(scales->as<float>()[row]));
        }
        return out;
    }
};

TEST(DequantizeGemv, MatchesLoops) {
    for (const Shape& shape : shapes) {
        SCOPED_TRACE(::testing::Message() << shape);
        const Matrix matrix(shape);
        const OwnedTensor bias = random_tensor(DType::f32, {shape.rows}, 4);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const OwnedTensor in = random_tensor(dtype, {1, shape.groups * shape.group}, 5);
            OwnedTensor out(dtype, {1, shape.rows});
            // Of bf16 only the result is rounded, to 2^-8 of itself.
            const double tolerance = dtype == DType::f32 ? f32_tolerance : 0x1.01p-8;

            Values expected = matrix.times(values_of(in));
            cpu::dequantize_gemv(out, in, matrix.additive(), {});
            EXPECT_LT(relative_error(out, expected), tolerance);

            for (std::size_t row = 0; row < expected.size(); ++row) expected[row] += values_of(bias)[row];
            cpu::dequantize_gemv(out, in, matrix.additive(), bias);
            EXPECT_LT(relative_error(out, expected), tolerance);
        }
    }
}

TEST(DequantizeGemv, AgreesWithTheProductOfTheDequantizedMatrix) {
    const Matrix matrix({67, 64, 8, 2, 200, DType::u8});
    const OwnedTensor in = random_tensor(DType::f32, {1, 512}, 5);
    OwnedTensor weight(DType::f32, {67, 512});
    cpu::dequantize_additive(weight, matrix.additive());
    const Values weights = values_of(weight);
    const Values values = values_of(in);
    Values expected(67);
    for (std::size_t i = 0; i < weights.size(); ++i) expected[i / 512] += weights[i] * values[i % 512];
    OwnedTensor out(DType::f32, {1, 67});
    cpu::dequantize_gemv(out, in, matrix.additive(), {});
    EXPECT_LT(relative_error(out, expected), f32_tolerance);
}

TEST(DequantizeGemv, SameBitsForAnyThreads) {
    for (const Shape& shape : shapes) {
        const Matrix matrix(shape);
        const OwnedTensor bias = random_tensor(DType::f32, {shape.rows}, 4);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const OwnedTensor in = random_tensor(dtype, {1, shape.groups * shape.group}, 5);
            expect_same_bits_for_any_threads([&] {
                OwnedTensor out(dtype, {1, shape.rows});
                cpu::dequantize_gemv(out, in, matrix.additive(), bias);
                return std::vector<OwnedTensor>{out};
            });
        }
    }
}

}  // namespace
}  // namespace pvtune
