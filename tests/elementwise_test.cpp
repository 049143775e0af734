#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/simd.h"
#include "tests/tensors.h"

#include <bit>

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

TEST(Add, AgreesWithPlainLoopsInPlaceToo) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t count : {1, 7, 33, 2310}) {
            OwnedTensor a = random_tensor(dtype, {count}, 1);
            OwnedTensor b = random_tensor(dtype, {count}, 2);
            OwnedTensor out(dtype, {count});
            add(out, a, b);
            const Values left = values_of(a);
            const Values right = values_of(b);
            OwnedTensor expected(dtype, {count});
            for (std::int64_t i = 0; i < count; ++i) {
                const auto at = static_cast<std::size_t>(i);
                expected.set(i, static_cast<double>(static_cast<float>(left[at]) + static_cast<float>(right[at])));
            }
            EXPECT_TRUE(same_bits(out, expected));
            OwnedTensor left_in_place = a;
            add(left_in_place, left_in_place, b);
            EXPECT_TRUE(same_bits(left_in_place, expected));
            add(b, a, b);
            EXPECT_TRUE(same_bits(b, expected));
        }
    }
}

TEST(Scale, AgreesWithPlainLoops) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t count : {1, 7, 33, 2310}) {
            OwnedTensor values = random_tensor(dtype, {count}, 1);
            OwnedTensor expected(dtype, {count});
            const Values before = values_of(values);
            for (std::int64_t i = 0; i < count; ++i) {
                const auto value = static_cast<float>(before[static_cast<std::size_t>(i)]);
                expected.set(i, static_cast<double>(4.6F * value));
            }
            scale(values, 4.6F);
            EXPECT_TRUE(same_bits(values, expected));
        }
    }
}

TEST(ColumnSum, AgreesWithPlainLoopsAndAdds) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t tokens : {1, 7, 33, 100}) {
            for (const std::int64_t width : {5, 30, 64, 70}) {
                const OwnedTensor d_out = random_tensor(dtype, {tokens, width}, 1);
                OwnedTensor d_bias = random_tensor(DType::f32, {width}, 2);
                Values expected = values_of(d_bias);
                column_sum(d_bias, d_out);
                const Values values = values_of(d_out);
                for (std::size_t i = 0; i < values.size(); ++i) expected[i % expected.size()] += values[i];
                EXPECT_LT(relative_error(d_bias, expected), f32_tolerance);
            }
        }
    }
}

TEST(ColumnSum, SameBitsForAnyNumberOfThreads) {
    expect_same_bits_for_any_threads([] {
        OwnedTensor d_bias(DType::f32, {70});
        column_sum(d_bias, random_tensor(DType::f32, {133, 70}, 1));
        return std::vector<OwnedTensor>{d_bias};
    });
}

/// Round to nearest, ties to even, from the definition: the nearer of the two bf16 neighbours.
std::uint16_t nearest_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t kept = bits >> 16;
    const std::uint32_t rest = bits & 0xffffU;
    if (std::isnan(value)) return static_cast<std::uint16_t>(kept | 0x40U);
    const bool up = rest > 0x8000U || (rest == 0x8000U && (kept & 1U) != 0);
    return static_cast<std::uint16_t>(kept + (up ? 1U : 0U));
}

TEST(Convert, RoundsToNearestEvenAndKeepsNan) {
    std::vector<std::uint32_t> patterns = {0,          0x80000000, 0x7f800000, 0xff800000, 0x7f800001, 0xff800001,
                                           0x7fffffff, 0xffffffff, 0x7f7fffff, 0x00000001, 0x3f808000, 0x3f818000,
                                           0x3f808001, 0x3f817fff, 0x7fc00000, 0x00008000, 0x7f7f8000};
    std::mt19937 engine(1);
    while (patterns.size() < 5000) patterns.push_back(static_cast<std::uint32_t>(engine()));
    const auto count = static_cast<std::int64_t>(patterns.size());
    OwnedTensor wide(DType::f32, {count});
    std::memcpy(wide->data, patterns.data(), patterns.size() * 4);
    OwnedTensor narrow(DType::bf16, {count});
    convert(narrow, wide);
    OwnedTensor back(DType::f32, {count});
    convert(back, narrow);
    for (std::int64_t i = 0; i < count; ++i) {
        const float value = wide->as<float>()[i];
        ASSERT_EQ(narrow->as<bf16>()[i].bits, nearest_bf16(value)) << std::hex << patterns[static_cast<std::size_t>(i)];
        ASSERT_EQ(to_bf16(value).bits, nearest_bf16(value)) << std::hex << patterns[static_cast<std::size_t>(i)];
        ASSERT_EQ(std::bit_cast<std::uint32_t>(back->as<float>()[i]),
                  static_cast<std::uint32_t>(narrow->as<bf16>()[i].bits) << 16);
    }
    OwnedTensor copy(DType::f32, {count});
    convert(copy, wide);
    EXPECT_TRUE(same_bits(copy, wide));
}

TEST(ConvertByChance, TakesOneOfTheTwoAroundAndIsRightOnAverage) {
    constexpr std::int64_t count = 333;
    const OwnedTensor wide = random_tensor(DType::f32, {count}, 5, 3);
    constexpr int draws = 400;
    Values mean(count);
    Values above(count);
    for (int seed = 0; seed < draws; ++seed) {
        OwnedTensor narrow(DType::bf16, {count});
        convert_by_chance(narrow, wide, static_cast<std::uint64_t>(seed));
        const Values values = values_of(narrow);
        for (std::size_t i = 0; i < count; ++i) {
            const float value = wide->as<float>()[i];
            const std::uint32_t bits = std::bit_cast<std::uint32_t>(value) & 0xffff0000U;
            const auto towards_zero = static_cast<double>(std::bit_cast<float>(bits));
            const auto away = static_cast<double>(std::bit_cast<float>(bits + 0x10000U));
            ASSERT_TRUE(values[i] == towards_zero || values[i] == away) << value;
            mean[i] += values[i] / draws;
            above[i] = std::abs(away - towards_zero);
        }
    }
    double worst = 0;
    for (std::size_t i = 0; i < count; ++i) {
        worst = std::max(worst, std::abs(mean[i] - static_cast<double>(wide->as<float>()[i])) / above[i]);
    }
    // A share p of ups has the deviation sqrt(p (1 - p) / draws) <= 0.025; of 333, five of these are not met by chance.
    EXPECT_LT(worst, 0.125);
}

TEST(ConvertByChance, KeepsWhatIsExactAndWhatIsNotFinite) {
    OwnedTensor wide(DType::f32, {5});
    const float values[] = {0.0F, -1.5F, INFINITY, -INFINITY, NAN};
    std::copy_n(values, 5, wide->as<float>());
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        OwnedTensor narrow(DType::bf16, {5});
        convert_by_chance(narrow, wide, seed);
        for (int i = 0; i < 4; ++i) EXPECT_EQ(to_float(narrow->as<bf16>()[i]), values[i]);
        EXPECT_TRUE(std::isnan(to_float(narrow->as<bf16>()[4])));
    }
}

TEST(ConvertByChance, SameBitsForAnyThreads) {
    expect_same_bits_for_any_threads([] {
        OwnedTensor narrow(DType::bf16, {10007});
        convert_by_chance(narrow, random_tensor(DType::f32, {10007}, 6), 9);
        return std::vector<OwnedTensor>{narrow};
    });
}

TEST(FillZero, LeavesNothing) {
    for (const std::int64_t count : {1, 45, (1 << 18) + 3}) {
        OwnedTensor tensor = random_tensor(DType::f32, {count}, 1);
        fill_zero(tensor);
        EXPECT_TRUE(same_bits(tensor, OwnedTensor(DType::f32, {count})));
    }
}

TEST(Exponential, IsGoodToTwoUnitsInTheLastPlace) {
    double worst = 0;
    for (double x = -80; x <= 80; x += 0.00037) {
        const auto at = static_cast<float>(x);
        const double expected = std::exp(static_cast<double>(at));
        worst = std::max(worst, std::abs(static_cast<double>(exponential(at)) - expected) / expected);
    }
    EXPECT_LT(worst, 2 * 0x1p-23);
    EXPECT_EQ(exponential(0), 1);
    EXPECT_EQ(exponential(-0.0F), 1);
}

TEST(Exponential, SaturatesOutsideItsRange) {
    for (const float x : {-81.0F, -1e4F, -1e30F, -INFINITY}) {
        EXPECT_GE(exponential(x), 0);
        EXPECT_LT(exponential(x), 2e-35F);
    }
    for (const float x : {81.0F, 1e4F, 1e30F, INFINITY}) {
        EXPECT_GT(exponential(x), 5e34F);
        EXPECT_TRUE(std::isfinite(exponential(x)));
    }
    EXPECT_TRUE(std::isnan(exponential(NAN)));
}

}  // namespace
}  // namespace pvtune::cpu
