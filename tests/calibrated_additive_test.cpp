// Additive codes under a Hessian: the objective against plain loops, what a search and a fit must leave behind, and
// Hessians that say little.
#include "host/quant/calibrated_additive.h"
#include "tests/files.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace testing;

constexpr std::int64_t rows = 12;
constexpr std::int64_t columns = 32;

EncodedMatrix encode_on_cpu(const std::string& name, std::span<const float> weight, std::int64_t row_count,
                            std::int64_t column_count, const QuantizationSpec& spec, std::uint64_t seed,
                            std::span<const float> hessian, QuantizationReport* report = nullptr,
                            const CalibratedSettings& settings = {}) {
    const auto backend = make_cpu_backend({});
    return encode_additive_calibrated(*backend, name, weight, row_count, column_count, spec, seed, hessian, report,
                                      settings);
}

std::vector<float> gaussian(std::int64_t count, std::uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = normal(engine);
    return values;
}

/// X^T X of correlated inputs, columns of very different size.
std::vector<float> hessian_of(std::int64_t inputs, std::uint32_t seed) {
    const std::vector<float> noise = gaussian(inputs * columns, seed);
    const std::vector<float> common = gaussian(inputs, seed + 1);
    Values x(noise.size());
    for (std::int64_t t = 0; t < inputs; ++t) {
        for (std::int64_t i = 0; i < columns; ++i) {
            const auto at = static_cast<std::size_t>(t * columns + i);
            const double size = 0.2 + 3.0 * static_cast<double>(i % 7) / 7;
            x[at] = size * static_cast<double>(noise[at] + 2 * common[static_cast<std::size_t>(t)]);
        }
    }
    std::vector<float> hessian(columns * columns);
    for (std::size_t i = 0; i < columns; ++i) {
        for (std::size_t j = 0; j < columns; ++j) {
            double sum = 0;
            for (std::size_t t = 0; t < static_cast<std::size_t>(inputs); ++t)
                sum += x[t * columns + i] * x[t * columns + j];
            hessian[i * columns + j] = static_cast<float>(sum);
        }
    }
    return hessian;
}

/// The damped Hessian of CalibratedSettings, mean diagonal 1.
Values damped(const std::vector<float>& hessian, double damping) {
    double trace = 0;
    for (std::size_t i = 0; i < columns; ++i) trace += static_cast<double>(hessian[i * columns + i]);
    Values result(hessian.size());
    for (std::size_t i = 0; i < result.size(); ++i) {
        result[i] = static_cast<double>(hessian[i]) * columns / trace + (i % (columns + 1) == 0 ? damping : 0);
    }
    return result;
}

/// tr((W - What) H (W - What)^T), What by the definition of the codes.
double objective(const std::vector<float>& weight, const EncodedMatrix& encoded, const QuantizationSpec& spec,
                 const Values& hessian) {
    const auto group = static_cast<std::size_t>(spec.group);
    const auto books = static_cast<std::size_t>(spec.codebooks);
    const std::size_t size = std::size_t{1} << spec.code_bits;
    double total = 0;
    for (std::size_t o = 0; o < rows; ++o) {
        Values rest(columns);
        for (std::size_t i = 0; i < columns; ++i) {
            double sum = 0;
            for (std::size_t m = 0; m < books; ++m) {
                const std::size_t code = encoded.codes[(o * columns / group + i / group) * books + m];
                sum += static_cast<double>(encoded.codebooks[(m * size + code) * group + i % group]);
            }
            rest[i] = static_cast<double>(weight[o * columns + i]) - static_cast<double>(encoded.scales[o]) * sum;
        }
        for (std::size_t i = 0; i < columns; ++i) {
            for (std::size_t j = 0; j < columns; ++j) total += rest[i] * hessian[i * columns + j] * rest[j];
        }
    }
    return total;
}

struct Case {
    QuantizationSpec spec;
    std::int64_t block;  ///< columns of a block of a sweep
};

std::vector<Case> cases() {
    return {{{"vq", 1, 3, 4}, 128},
            {{"vq", 1, 4, 8}, 8},
            {{"aqlm", 2, 3, 8}, 16},
            {{"aqlm", 3, 2, 4}, 12},
            {{"aqlm", 2, 4, 16}, 16}};
}

TEST(CalibratedAdditive, ReportsTheObjectiveAndBeatsCodesWithoutAHessian) {
    const std::vector<float> weight = gaussian(rows * columns, 1);
    const std::vector<float> hessian = hessian_of(100, 2);
    for (const Case& c : cases()) {
        CalibratedSettings settings;
        settings.block = c.block;
        QuantizationReport report;
        const EncodedMatrix encoded = encode_on_cpu("w", weight, rows, columns, c.spec, 3, hessian, &report, settings);
        const Values wanted = damped(hessian, settings.damping);
        const double error = objective(weight, encoded, c.spec, wanted);
        const Values given(hessian.begin(), hessian.end());
        EXPECT_NEAR(report.output_error, objective(weight, encoded, c.spec, given), 1e-4 * report.output_norm)
            << c.spec.codebooks;
        const EncodedMatrix plain = encode_additive(*make_cpu_backend({}), "w", weight, rows, columns, c.spec, 3);
        EXPECT_LT(error, 0.9 * objective(weight, plain, c.spec, wanted)) << c.spec.codebooks;
        EncodedMatrix zero = encoded;
        std::fill(zero.scales.begin(), zero.scales.end(), 0.0F);
        EXPECT_NEAR(report.output_norm, objective(weight, zero, c.spec, given), 1e-5 * report.output_norm);
    }
}

TEST(CalibratedAdditive, NoOtherCodeOfOneGroupWouldBeBetter) {
    // With one codebook a sweep finds the best code of every group beside the others; after rounds of sweeps alone
    // (no fits, no change of scales) nothing is left to gain.
    const QuantizationSpec spec{"vq", 1, 3, 4};
    const std::vector<float> weight = gaussian(rows * columns, 4);
    const std::vector<float> hessian = hessian_of(80, 5);
    CalibratedSettings settings;
    settings.rounds = 30;
    settings.tolerance = 0;
    settings.block = 12;  // cuts the columns unevenly
    EncodedMatrix encoded = encode_on_cpu("w", weight, rows, columns, spec, 6, hessian, nullptr, settings);
    const Values wanted = damped(hessian, settings.damping);
    const double error = objective(weight, encoded, spec, wanted);
    for (std::uint16_t& code : encoded.codes) {
        const std::uint16_t kept = code;
        for (std::uint16_t other = 0; other < 8; ++other) {
            code = other;
            // The last fit of scales follows the last sweep and moves them by little.
            EXPECT_GT(objective(weight, encoded, spec, wanted), error * (1 - 2e-3));
        }
        code = kept;
    }
}

TEST(CalibratedAdditive, RoundsNeverLose) {
    const std::vector<float> weight = gaussian(rows * columns, 7);
    const std::vector<float> hessian = hessian_of(64, 8);
    for (const Case& c : cases()) {
        double before = INFINITY;
        for (const int rounds : {0, 1, 2, 4, 8}) {
            CalibratedSettings settings;
            settings.rounds = rounds;
            settings.tolerance = 0;
            QuantizationReport report;
            encode_on_cpu("w", weight, rows, columns, c.spec, 9, hessian, &report, settings);
            // Scales and codebooks in 16 bits cost up to 2^-11 of the weights.
            EXPECT_LT(report.output_error, before + 1e-3 * report.output_norm) << c.spec.codebooks << " " << rounds;
            before = report.output_error;
        }
    }
}

TEST(CalibratedAdditive, TheSameBitsEveryTime) {
    const std::vector<float> weight = gaussian(rows * columns, 10);
    const std::vector<float> hessian = hessian_of(64, 11);
    const QuantizationSpec spec{"aqlm", 2, 4, 4};
    const EncodedMatrix one = encode_on_cpu("w", weight, rows, columns, spec, 12, hessian);
    const EncodedMatrix same = encode_on_cpu("w", weight, rows, columns, spec, 12, hessian);
    EXPECT_EQ(one.codes, same.codes);
    EXPECT_EQ(one.codebooks, same.codebooks);
    EXPECT_EQ(one.scales, same.scales);
    const EncodedMatrix other = encode_on_cpu("w", weight, rows, columns, spec, 13, hessian);
    EXPECT_NE(one.codes, other.codes);
}

TEST(CalibratedAdditive, TheSameBitsForAnyThreads) {
    constexpr std::int64_t many = 300;  // rows: several chunks for every thread
    const std::vector<float> weight = gaussian(many * columns, 10);
    const std::vector<float> hessian = hessian_of(64, 11);
    for (const QuantizationSpec& spec : {QuantizationSpec{"aqlm", 2, 4, 4}, QuantizationSpec{"vq", 1, 6, 8}}) {
        const auto encode = [&](int threads) {
            EncodedMatrix encoded;
            with_threads(threads, [&] { encoded = encode_on_cpu("w", weight, many, columns, spec, 12, hessian); });
            return encoded;
        };
        const EncodedMatrix one = encode(1);
        for (const int threads : {2, 3}) {
            const EncodedMatrix more = encode(threads);
            EXPECT_EQ(one.codes, more.codes) << threads;
            EXPECT_EQ(one.codebooks, more.codebooks) << threads;
            EXPECT_EQ(one.scales, more.scales) << threads;
        }
    }
}

TEST(CalibratedAdditive, HessiansThatSayLittle) {
    const std::vector<float> weight = gaussian(rows * columns, 13);
    const QuantizationSpec spec{"aqlm", 2, 4, 4};
    const auto check = [&](const std::vector<float>& hessian, const char* what) {
        QuantizationReport report;
        const EncodedMatrix encoded = encode_on_cpu("w", weight, rows, columns, spec, 14, hessian, &report);
        for (const float value : encoded.codebooks) EXPECT_TRUE(std::isfinite(value)) << what;
        for (const float value : encoded.scales) EXPECT_TRUE(std::isfinite(value)) << what;
        EXPECT_TRUE(std::isfinite(report.output_error)) << what;
        EXPECT_LE(report.output_error, 0.5 * report.output_norm) << what;  // 0 of 0 where the identity stood in
        EXPECT_LT(report.squared_error, 0.5 * report.squared_norm) << what;
    };
    check(hessian_of(3, 15), "rank 3");
    check(std::vector<float>(columns * columns), "zero");
    std::vector<float> hessian = hessian_of(64, 16);
    for (float& value : hessian) value *= 1e30F;
    check(hessian, "huge");
    for (float& value : hessian) value *= 1e-30F * 1e-30F;
    check(hessian, "tiny");
    hessian = hessian_of(64, 17);
    for (std::size_t i = 0; i < columns; ++i) hessian[5 * columns + i] = hessian[i * columns + 5] = 0;
    check(hessian, "a dead column");
    hessian[7] = NAN;
    check(hessian, "not finite");
    std::vector<float> spiked(columns * columns);
    for (std::size_t i = 0; i < columns; ++i) spiked[i * (columns + 1)] = i == 3 ? 1e12F : 1e-6F;
    check(spiked, "one large input");
}

TEST(CalibratedAdditive, RefusesWhatCannotBeEncoded) {
    std::vector<float> weight = gaussian(rows * columns, 18);
    const std::vector<float> hessian = hessian_of(64, 19);
    weight[5] = INFINITY;
    EXPECT_ERROR(encode_on_cpu("model.w", weight, rows, columns, {"aqlm", 2, 4, 4}, 0, hessian), "model.w", "[0, 5]");
}

}  // namespace
}  // namespace pvtune
