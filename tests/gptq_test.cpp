// Scalar grids: the search for a grid, GPTQ against its formula in plain loops, Hessians that cannot be used, files.
#include "host/quant/gptq.h"
#include "host/quant/damping.h"
#include "host/quant/scalar.h"
#include "host/quant/scalar_grid.h"
#include "tests/files.h"
#include "tests/tensors.h"

#include <numeric>

namespace pvtune {
namespace {

using namespace testing;
using Floats = std::vector<float>;

EncodedScalar encode_on_cpu(const std::string& name, std::span<const float> weight, std::int64_t rows,
                            std::int64_t columns, const QuantizationSpec& spec, std::span<const float> hessian,
                            QuantizationReport* report = nullptr) {
    const auto backend = make_cpu_backend({});
    return encode_scalar(*backend, name, weight, rows, columns, spec, hessian, report);
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Floats gaussian(std::int64_t count, std::uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    Floats values(at(count));
    for (float& value : values) value = normal(engine);
    return values;
}

QuantizationSpec spec_of(int bits, int group) { return {"scalar", 1, bits, group}; }

/// X^T X of `samples` correlated inputs, column i times scales(i).
template <class Scale>
Floats hessian_of(std::int64_t n, std::int64_t samples, std::uint32_t seed, Scale scale) {
    Floats inputs = gaussian(samples * n, seed);
    for (std::int64_t t = 0; t < samples; ++t) {
        for (std::int64_t i = 0; i < n; ++i) {
            float& value = inputs[at(t * n + i)];
            if (i > 0) value = 0.6F * value + 0.8F * inputs[at(t * n + i - 1)];
        }
    }
    Floats hessian(at(n * n));
    for (std::int64_t a = 0; a < n; ++a) {
        for (std::int64_t b = 0; b < n; ++b) {
            double sum = 0;
            for (std::int64_t t = 0; t < samples; ++t) {
                sum += static_cast<double>(inputs[at(t * n + a)]) * static_cast<double>(inputs[at(t * n + b)]);
            }
            hessian[at(a * n + b)] =
                static_cast<float>(sum * static_cast<double>(scale(a)) * static_cast<double>(scale(b)));
        }
    }
    return hessian;
}
float uneven(std::int64_t i) { return i % 7 == 3 ? 8.0F : 1.0F + 0.1F * static_cast<float>(i % 5); }

double trace_of(const Values& difference, std::int64_t rows, const Floats& hessian, std::int64_t n) {
    double sum = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t a = 0; a < n; ++a) {
            for (std::int64_t b = 0; b < n; ++b) {
                sum += difference[at(row * n + a)] * difference[at(row * n + b)] *
                       static_cast<double>(hessian[at(a * n + b)]);
            }
        }
    }
    return sum;
}

Values difference_of(const Floats& weight, const EncodedScalar& encoded, std::int64_t n, const QuantizationSpec& spec) {
    Values difference;
    const std::int64_t grids = grids_of(spec, n);
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(weight.size()); ++i) {
        const std::size_t grid = at(i / n * grids + i % n / grid_columns(spec, n));
        difference.push_back(static_cast<double>(weight[at(i)]) -
                             static_cast<double>(encoded.scales[grid]) *
                                 (encoded.codes[at(i)] - static_cast<double>(encoded.zeros[grid])));
    }
    return difference;
}

/// Frantar et al. 2022, algorithm 1, column by column in f64 with the inverse itself: after each column the inverse of
/// the Hessian of those that are left follows by one step of Gaussian elimination (equation 3). Grids are given.
std::vector<std::uint8_t> gptq_in_plain_loops(const Floats& weight, std::int64_t rows, std::int64_t n,
                                              const Floats& hessian, const QuantizationSpec& spec,
                                              const EncodedScalar& grids) {
    Values left(at(n * n)), inverse(at(n * n));
    double trace = 0;
    for (std::int64_t i = 0; i < n; ++i) trace += static_cast<double>(hessian[at(i * n + i)]);
    for (std::int64_t i = 0; i < n * n; ++i) left[at(i)] = static_cast<double>(hessian[at(i)]);
    for (std::int64_t i = 0; i < n; ++i) {
        left[at(i * n + i)] += 0.01 * trace / static_cast<double>(n);
        inverse[at(i * n + i)] = 1;
    }
    for (std::int64_t k = 0; k < n; ++k) {  // Gauss-Jordan; positive definite, so without pivoting
        const double pivot = left[at(k * n + k)];
        for (std::int64_t j = 0; j < n; ++j) left[at(k * n + j)] /= pivot, inverse[at(k * n + j)] /= pivot;
        for (std::int64_t i = 0; i < n; ++i) {
            const double factor = left[at(i * n + k)];
            for (std::int64_t j = 0; i != k && j < n; ++j) {
                left[at(i * n + j)] -= factor * left[at(k * n + j)];
                inverse[at(i * n + j)] -= factor * inverse[at(k * n + j)];
            }
        }
    }
    std::vector<std::int64_t> order(at(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return hessian[at(a * n + a)] > hessian[at(b * n + b)]; });
    Values now(weight.begin(), weight.end());
    std::vector<std::uint8_t> codes(weight.size());
    const std::int64_t row_grids = grids_of(spec, n);
    for (const std::int64_t q : order) {
        for (std::int64_t row = 0; row < rows; ++row) {
            const std::size_t grid = at(row * row_grids + q / grid_columns(spec, n));
            const double scale = static_cast<double>(grids.scales[grid]), zero = static_cast<double>(grids.zeros[grid]);
            double least = INFINITY;
            for (int code = 0; code < 1 << spec.code_bits; ++code) {
                const double distance = std::abs(now[at(row * n + q)] - scale * (code - zero));
                if (distance < least) least = distance, codes[at(row * n + q)] = static_cast<std::uint8_t>(code);
            }
            const double error =
                (now[at(row * n + q)] - scale * (codes[at(row * n + q)] - zero)) / inverse[at(q * n + q)];
            for (std::int64_t j = 0; j < n; ++j) now[at(row * n + j)] -= error * inverse[at(q * n + j)];
        }
        const Values row_q(inverse.begin() + q * n, inverse.begin() + (q + 1) * n);
        const double pivot = row_q[at(q)];
        for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t j = 0; j < n; ++j) inverse[at(i * n + j)] -= row_q[at(i)] * row_q[at(j)] / pivot;
        }
    }
    return codes;
}

TEST(FitGrid, NoPoorerThanTheWholeRange) {
    for (const std::int64_t levels : {4, 8, 16}) {
        const Floats weights = gaussian(128, 1);
        const Grid grid = fit_grid(weights, {}, levels);
        EXPECT_EQ(grid.scale, to_float(from_float<f16>(grid.scale)));
        EXPECT_EQ(grid.zero, to_float(from_float<f16>(grid.zero)));
        const auto [low, high] = std::minmax_element(weights.begin(), weights.end());
        const auto error_of = [&](const Grid& any) {
            double sum = 0;
            for (const float w : weights) {
                double least = INFINITY;
                for (int code = 0; code < levels; ++code) {
                    least = std::min(least, std::abs(static_cast<double>(w - any.value(static_cast<float>(code)))));
                }
                sum += least * least;
            }
            return sum;
        };
        const float scale = (*high - *low) / static_cast<float>(levels - 1);
        EXPECT_LT(error_of(grid), 0.95 * error_of({scale, -*low / scale}));
    }
}

TEST(FitGrid, GaussianErrors) {
    // The best uniform quantisers of a Gaussian (Max 1960): 0.1188, 0.03744, 0.01154. A grid of its own 128 weights
    // does a little better.
    const double best[] = {0.1188, 0.03744, 0.01154};
    const Floats weights = gaussian(64 * 128, 2);
    for (int bits = 2; bits <= 4; ++bits) {
        QuantizationReport report;
        encode_on_cpu("w", weights, 64, 128, spec_of(bits, 128), {}, &report);
        EXPECT_LT(report.relative_mse(), best[bits - 2]);
        EXPECT_GT(report.relative_mse(), 0.7 * best[bits - 2]);
    }
}

TEST(FitGrid, FollowsImportance) {
    const Floats weights = gaussian(64, 3);
    Floats importance(64, 1);
    for (std::size_t i = 0; i < 8; ++i) importance[i * 8] = 1000;
    const Grid plain = fit_grid(weights, {}, 8);
    const Grid weighted = fit_grid(weights, importance, 8);
    double errors[2] = {};
    for (std::size_t i = 0; i < 64; i += 8) {
        for (const bool use : {false, true}) {
            const Grid& grid = use ? weighted : plain;
            const float rest = weights[i] - grid.value(nearest_code(weights[i], grid, 7));
            errors[use] += static_cast<double>(rest * rest);
        }
    }
    EXPECT_LT(errors[1], errors[0]);
}

TEST(Gptq, DoesWhatItsFormulaSays) {
    struct Case {
        std::int64_t rows, n;
        QuantizationSpec spec;
    };
    const Case cases[] = {
        {5, 40, spec_of(3, 32)}, {70, 37, spec_of(2, 0)}, {3, 70, spec_of(4, 32)}, {2, 1, spec_of(3, 64)}};
    for (const Case& c : cases) {
        const Floats weight = gaussian(c.rows * c.n, 4);
        const Floats hessian = hessian_of(c.n, 3 * c.n, 5, uneven);
        QuantizationReport report, nearest_report;
        const EncodedScalar encoded = encode_on_cpu("w", weight, c.rows, c.n, c.spec, hessian, &report);
        const auto expected = gptq_in_plain_loops(weight, c.rows, c.n, hessian, c.spec, encoded);
        std::int64_t different = 0;
        for (std::size_t i = 0; i < expected.size(); ++i) different += expected[i] != encoded.codes[i];
        EXPECT_LE(different, static_cast<std::int64_t>(expected.size() / 200)) << "near ties in f32 may fall otherwise";
        const Values difference = difference_of(weight, encoded, c.n, c.spec);
        EXPECT_NEAR(report.output_error / trace_of(difference, c.rows, hessian, c.n), 1, 1e-4);
        EXPECT_NEAR(report.squared_error / dot(difference, difference), 1, 1e-4);
        const Values all(weight.begin(), weight.end());
        EXPECT_NEAR(report.output_norm / trace_of(all, c.rows, hessian, c.n), 1, 1e-4);
        if (c.n == 1) continue;
        const EncodedScalar nearest = encode_on_cpu("w", weight, c.rows, c.n, c.spec, {}, &nearest_report);
        const Values other = difference_of(weight, nearest, c.n, c.spec);
        EXPECT_LT(report.output_error, 0.7 * trace_of(other, c.rows, hessian, c.n));
        EXPECT_EQ(nearest_report.output_error, 0);
    }
}

TEST(Gptq, HessiansOfEveryKindGiveFiniteCodes) {
    const std::int64_t rows = 6, n = 40;
    const Floats weight = gaussian(rows * n, 6);
    const QuantizationSpec spec = spec_of(3, 32);
    QuantizationReport nearest;
    const EncodedScalar plain = encode_on_cpu("w", weight, rows, n, spec, {}, &nearest);
    const auto error_with = [&](const Floats& hessian) {
        QuantizationReport report;
        const EncodedScalar encoded = encode_on_cpu("w", weight, rows, n, spec, hessian, &report);
        for (const float scale : encoded.scales) EXPECT_TRUE(std::isfinite(scale) && scale > 0);
        for (const float zero : encoded.zeros) EXPECT_TRUE(std::isfinite(zero));
        EXPECT_LT(report.relative_mse(), 1);
        return report;
    };
    const Values rest = difference_of(weight, plain, n, spec);
    const auto better = [&](const Floats& hessian) {
        EXPECT_LT(error_with(hessian).output_error, trace_of(rest, rows, hessian, n));
    };
    better(hessian_of(n, 5, 7, uneven));                                                     // rank 5
    better(hessian_of(n, 100, 8, [](std::int64_t i) { return i < 3 ? 1e5F : 1e-3F; }));      // badly scaled
    better(hessian_of(n, 100, 9, [](std::int64_t i) { return i % 3 == 0 ? 0.0F : 1.0F; }));  // dead columns
    Floats tiny = hessian_of(n, 100, 10, [](std::int64_t) { return 1e-15F; });
    better(tiny);
    // The identity has no feedback: the nearest codes.
    Floats identity(at(n * n));
    for (std::int64_t i = 0; i < n; ++i) identity[at(i * n + i)] = 2;
    EXPECT_EQ(encode_on_cpu("w", weight, rows, n, spec, identity).codes, plain.codes);
    // Zero, negative, not a number, infinite: rounded to nearest.
    for (const float value : {0.0F, -1.0F, NAN, INFINITY}) {
        Floats bad = identity;
        for (std::int64_t i = 0; i < n; ++i) bad[at(i * n + i)] = value;
        EXPECT_EQ(encode_on_cpu("w", weight, rows, n, spec, bad).codes, plain.codes) << value;
    }
    Floats spoilt = hessian_of(n, 100, 11, uneven);
    spoilt[at(17 * n + 5)] = spoilt[at(5 * n + 17)] = NAN;
    EXPECT_LT(error_with(spoilt).relative_mse(), 0.1);
    Floats indefinite = identity;
    for (std::int64_t i = 0; i + 1 < n; i += 2) indefinite[at(i * n + i + 1)] = indefinite[at((i + 1) * n + i)] = 7;
    EXPECT_FALSE(damped_factor(indefinite, n, falling_diagonal(indefinite, n))->transposed.empty());
    error_with(indefinite);
}

TEST(DampedFactor, IsOne) {
    const std::int64_t n = 33;
    for (const std::int64_t samples : {100, 4}) {
        const Floats hessian = hessian_of(n, samples, 12, uneven);
        const auto order = falling_diagonal(hessian, n);
        const auto factor = damped_factor(hessian, n, order);
        ASSERT_TRUE(factor);
        double trace = 0;
        for (std::int64_t i = 0; i < n; ++i) trace += static_cast<double>(hessian[at(i * n + i)]);
        EXPECT_NEAR(factor->damping, 0.01 * trace / static_cast<double>(n), 1e-9 * trace);
        for (std::int64_t a = 0; a < n; ++a) {
            if (a > 0) {
                EXPECT_GE(hessian[at(order[at(a - 1)] * (n + 1))], hessian[at(order[at(a)] * (n + 1))]);
            }
            for (std::int64_t b = 0; b < n; ++b) {
                double sum = 0;
                for (std::int64_t j = 0; j < n; ++j) {
                    sum += static_cast<double>(factor->transposed[at(j * n + a)]) *
                           static_cast<double>(factor->transposed[at(j * n + b)]);
                }
                const double expected =
                    static_cast<double>(hessian[at(order[at(a)] * n + order[at(b)])]) + (a == b ? factor->damping : 0);
                EXPECT_NEAR(sum, expected, 1e-6 * trace);
                if (b > a) {
                    EXPECT_EQ(factor->transposed[at(a * n + b)], 0);
                }
            }
        }
    }
}

TEST(Gptq, SameBitsForAnyThreads) {
    const Floats weight = gaussian(150 * 96, 13);
    const Floats hessian = hessian_of(96, 200, 14, uneven);
    for (const bool with_hessian : {false, true}) {
        EncodedScalar one, two;
        QuantizationReport reports[2];
        const std::span<const float> h = with_hessian ? std::span<const float>(hessian) : std::span<const float>();
        with_threads(1, [&] { one = encode_on_cpu("w", weight, 150, 96, spec_of(3, 32), h, &reports[0]); });
        with_threads(2, [&] { two = encode_on_cpu("w", weight, 150, 96, spec_of(3, 32), h, &reports[1]); });
        EXPECT_EQ(one.codes, two.codes);
        EXPECT_EQ(one.scales, two.scales);
        EXPECT_EQ(one.zeros, two.zeros);
        EXPECT_EQ(reports[0].output_error, reports[1].output_error);
        EXPECT_EQ(reports[0].squared_error, reports[1].squared_error);
    }
}

TEST(EncodeScalar, TinyZeroAndExtremeMatrices) {
    Floats weight = gaussian(3 * 40, 15);
    std::fill_n(weight.begin() + 40, 40, 0.0F);
    std::fill_n(weight.begin() + 80, 40, 0.7F);
    for (const float factor : {1.0F, 0.0F, 1e-6F, 1e-30F, 1e4F}) {
        Floats scaled = weight;
        for (float& value : scaled) value *= factor;
        QuantizationReport report;
        const EncodedScalar encoded = encode_on_cpu("w", scaled, 3, 40, spec_of(4, 32), {}, &report);
        for (const float scale : encoded.scales) EXPECT_TRUE(std::isfinite(scale) && scale > 0);
        for (const float zero : encoded.zeros) EXPECT_TRUE(std::isfinite(zero));
        EXPECT_LE(report.squared_error, report.squared_norm);
        if (factor >= 1) {
            EXPECT_LT(report.relative_mse(), 0.01);
        }
        const Values difference = difference_of(scaled, encoded, 40, spec_of(4, 32));
        for (std::size_t i = 40; i < 80; ++i) EXPECT_EQ(difference[i], 0) << "zeros stay";
    }
}

TEST(EncodeScalar, RefusesWhatItCannotEncode) {
    Floats weight(64, 1.0F);
    weight[40] = NAN;
    EXPECT_ERROR(encode_on_cpu("layers.3.up", weight, 2, 32, spec_of(3, 32), {}), "layers.3.up", "[1, 8]");
    weight[40] = 1e30F;
    EXPECT_ERROR(encode_on_cpu("layers.3.up", weight, 2, 32, spec_of(3, 32), {}), "layers.3.up", "row 1");
    EXPECT_ERROR(check_spec(spec_of(1, 32)), "--code-bits 1", "2 to 8");
    EXPECT_ERROR(check_spec(spec_of(9, 32)), "--code-bits 9", "2 to 8");
    EXPECT_ERROR(check_spec(spec_of(3, 8)), "--group 8", "32, 64 or 128");
    EXPECT_ERROR(check_spec({"scalar", 2, 3, 32}), "--codebooks 2", "no codebooks");
}

TEST(EncodeScalar, CountsBits) {
    EXPECT_EQ(bits_of(spec_of(3, 128), 192, 576), 192 * (576 * 3 + 5 * 32));
    EXPECT_EQ(bits_of(spec_of(4, 0), 192, 576), 192 * (576 * 4 + 32));
}

class ScalarFile : public ::testing::Test {
protected:
    ScalarFile() : backend(make_cpu_backend({})), path(folder.file("weights.h5")) {}

    struct Parts {
        std::int64_t rows = 3, columns = 40, group = 32, code_bits = 3;
        std::vector<std::int64_t> code_shape = {3, 40}, grid_shape = {3, 2};
        DType code_type = DType::u8;
        std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(240);
        Floats scales = Floats(6, 1), zeros = Floats(6);
    };
    template <class Change>
    void load(Change change) {
        Parts parts;
        change(parts);
        {
            StoreWriter store(path, "weights", "test");
            const std::string group = "/tensors/w";
            store.create_group(group);
            store.set_text(group, "representation", "scalar");
            store.set_integer(group, "rows", parts.rows);
            store.set_integer(group, "columns", parts.columns);
            store.set_integer(group, "group", parts.group);
            store.set_integer(group, "code_bits", parts.code_bits);
            store.write(group + "/codes", parts.code_type, parts.code_shape, parts.codes.data());
            store.write(group + "/scales", DType::f32, parts.grid_shape, parts.scales.data());
            store.write(group + "/zeros", DType::f32, {3, 2}, parts.zeros.data());
            store.commit();
        }
        const StoreReader reader(path, "weights");
        load_representation(*backend, reader, "/tensors/w");
    }

    TemporaryFolder folder;
    std::unique_ptr<Backend> backend;
    std::string path;
};

TEST_F(ScalarFile, ComesBackWithTheSameBits) {
    const Floats weight = gaussian(6 * 70, 16);
    for (const int group : {32, 0}) {
        const auto original = quantize_scalar(*backend, "w", weight, 6, 70, spec_of(3, group), {});
        for (const bool exact : {false, true}) {  // fresh scales have 16 bits anyway
            {
                StoreWriter store(path, "weights", "test");
                original->save(*backend, store, "/tensors/w", exact);
                store.commit();
            }
            const StoreReader reader(path, "weights");
            const auto loaded = load_representation(*backend, reader, "/tensors/w");
            EXPECT_EQ(loaded->name(), "scalar");
            EXPECT_EQ(loaded->bits(), original->bits());
            EXPECT_EQ(loaded->groups(), 6 * 70);
            OwnedTensor before(DType::f32, {6, 70}), after(DType::f32, {6, 70});
            original->dequantize(backend->ops(), before);
            loaded->dequantize(backend->ops(), after);
            EXPECT_TRUE(same_bits(before, after));
        }
    }
}

TEST_F(ScalarFile, RefusesDamage) {
    load([](Parts&) {});
    const std::string file = path;
    EXPECT_ERROR(load([](Parts& p) { p.codes[5] = 8; }), file, "/tensors/w/codes: code 8 at 5");
    EXPECT_ERROR(load([](Parts& p) { p.zeros[3] = NAN; }), file, "/tensors/w/zeros: element 3");
    EXPECT_ERROR(load([](Parts& p) { p.scales[1] = INFINITY; }), file, "/tensors/w/scales: element 1");
    EXPECT_ERROR(load([](Parts& p) { p.code_shape = {5, 24}; }), file, "/tensors/w/codes: the shape");
    EXPECT_ERROR(load([](Parts& p) { p.grid_shape = {6}; }), file, "/tensors/w/scales: the shape");
    EXPECT_ERROR(load([](Parts& p) { p.code_type = DType::u16; }), file, "u16, not u8");
    EXPECT_ERROR(load([](Parts& p) { p.code_bits = 9; }), file, "code_bits is 9");
    EXPECT_ERROR(load([](Parts& p) { p.group = 48; }), file, "group is 48");
    EXPECT_ERROR(load([](Parts& p) { p.group = 0; }), file, "/tensors/w/scales: the shape");
    EXPECT_ERROR(load([](Parts& p) { p.columns = 0; }), file, "columns is 0");
    EXPECT_ERROR(load([](Parts& p) { p.rows = std::int64_t{1} << 40; }), file, "rows");
}

}  // namespace
}  // namespace pvtune
