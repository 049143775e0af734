// Data-free quantisation: k-means, least-squares codebooks, whole matrices, and their way to a file and back.
#include "host/backend/backend.h"
#include "host/common/index_of.h"
#include "host/quant/additive.h"
#include "host/quant/initialize.h"
#include "host/quant/kmeans.h"
#include "host/quant/quantize_matrix.h"
#include "tests/files.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace testing;

EncodedMatrix encode_on_cpu(const std::string& name, std::span<const float> weight, std::int64_t rows,
                            std::int64_t columns, const QuantizationSpec& spec, std::uint64_t seed,
                            QuantizationReport* report = nullptr, int threads = 0) {
    return encode_additive(*make_cpu_backend({.threads = threads}), name, weight, rows, columns, spec, seed, report);
}

std::vector<float> gaussian(std::int64_t count, std::uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = normal(engine);
    return values;
}

struct Points {
    std::vector<float> values;
    std::vector<float> weights;
    std::int64_t group;

    Points(std::int64_t count, std::int64_t size, std::uint32_t seed)
        : values(gaussian(count * size, seed)), weights(static_cast<std::size_t>(count)), group(size) {
        Uniform next(seed + 1);
        for (float& weight : weights) weight = static_cast<float>(1.1 + next());
    }
    WeightedPoints view() const { return {values, weights, group}; }
};

/// The objective of codebooks and codes: sum of weight * |point - its codewords' sum|^2.
double encoding_error(const WeightedPoints& points, const Codebooks& codebooks, std::span<const std::uint16_t> codes) {
    double error = 0;
    for (std::int64_t p = 0; p < points.count(); ++p) {
        for (std::int64_t i = 0; i < points.group; ++i) {
            double rest = points.points[index_of(p * points.group + i)];
            for (std::int64_t m = 0; m < codebooks.books; ++m) {
                const std::int64_t codeword = m * codebooks.size + codes[index_of(p * codebooks.books + m)];
                rest -= codebooks.values[index_of(codeword * points.group + i)];
            }
            error += points.weights[index_of(p)] * rest * rest;
        }
    }
    return error;
}

TEST(KMeans, AssignsTheNearestAndNeverGetsWorse) {
    const Points points(300, 4, 1);
    double before = INFINITY;
    for (int iterations = 0; iterations < 8; ++iterations) {
        std::vector<float> centroids(std::size_t{12 * 4});
        std::vector<std::uint16_t> codes(300);
        const Codebooks book{centroids, 1, 12};
        kmeans(*make_cpu_backend({}), points.view(), book, codes, {iterations, 5});
        for (std::size_t g = 0; g < 300; ++g) {
            std::vector<double> distances;
            for (std::size_t k = 0; k < 12; ++k) {
                double sum = 0;
                for (std::size_t i = 0; i < 4; ++i) {
                    const double d = static_cast<double>(points.values[g * 4 + i] - centroids[k * 4 + i]);
                    sum += d * d;
                }
                distances.push_back(sum);
            }
            EXPECT_LE(distances[codes[g]], *std::min_element(distances.begin(), distances.end()) + 1e-5);
        }
        const double error = encoding_error(points.view(), book, codes);
        EXPECT_LE(error, before * (1 + 1e-6));
        before = error;
    }
}

TEST(KMeans, FewerPointsThanCentroids) {
    const Points points(5, 8, 2);
    std::vector<float> centroids(std::size_t{16 * 8});
    std::vector<std::uint16_t> codes(5);
    kmeans(*make_cpu_backend({}), points.view(), {centroids, 1, 16}, codes, {3, 1});
    EXPECT_LT(encoding_error(points.view(), {centroids, 1, 16}, codes), 1e-9);
}

TEST(FitCodebooks, TheGradientVanishes) {
    // 16 codewords a book: dense normal equations; one book: means.
    for (const std::int64_t books : {1, 2, 3}) {
        const std::int64_t size = 16;
        const Points points(400, 8, 3);
        std::vector<float> values = gaussian(books * size * 8, 4);
        std::vector<std::uint16_t> codes(static_cast<std::size_t>(400 * books));
        std::mt19937 engine(5);
        for (auto& code : codes) code = static_cast<std::uint16_t>(engine() % (size - 1));  // the last is unused
        const std::vector<float> before = values;
        const Codebooks codebooks{values, books, size};
        const double error_before = encoding_error(points.view(), codebooks, codes);
        fit_codebooks(points.view(), codebooks, codes);
        EXPECT_LT(encoding_error(points.view(), codebooks, codes), error_before);
        Values gradient(values.size());
        for (std::size_t g = 0; g < 400; ++g) {
            for (std::size_t i = 0; i < 8; ++i) {
                double rest = static_cast<double>(points.values[g * 8 + i]);
                const auto at = [&](std::int64_t m) {
                    const std::int64_t code = codes[g * static_cast<std::size_t>(books) + static_cast<std::size_t>(m)];
                    return static_cast<std::size_t>((m * size + code) * 8) + i;
                };
                for (std::int64_t m = 0; m < books; ++m) rest -= static_cast<double>(values[at(m)]);
                for (std::int64_t m = 0; m < books; ++m) {
                    gradient[at(m)] += rest * static_cast<double>(points.weights[g]);
                }
            }
        }
        for (const double value : gradient) EXPECT_NEAR(value, 0, 1e-3);
        for (std::int64_t m = 0; m < books; ++m) {
            for (std::int64_t i = 0; i < 8; ++i) {
                const auto at = static_cast<std::size_t>((m * size + size - 1) * 8 + i);
                EXPECT_EQ(values[at], before[at]) << "unused codewords stay";
            }
        }
    }
}

TEST(FitCodebooks, LargeCodebooksNeverGetWorse) {
    const Points points(3000, 4, 6);
    std::vector<float> values = gaussian(2 * 1100 * 4, 7);
    std::vector<std::uint16_t> codes(6000);
    std::mt19937 engine(8);
    for (auto& code : codes) code = static_cast<std::uint16_t>(engine() % 1100);
    const Codebooks codebooks{values, 2, 1100};
    double before = encoding_error(points.view(), codebooks, codes);
    for (int round = 0; round < 3; ++round) {
        fit_codebooks(points.view(), codebooks, codes);
        const double error = encoding_error(points.view(), codebooks, codes);
        EXPECT_LT(error, before);
        before = error;
    }
}

TEST(ReseedUnused, GivesCodewordsToTheWorstPoints) {
    const Points points(50, 4, 9);
    std::vector<float> values(std::size_t{2 * 8 * 4});
    std::vector<std::uint16_t> codes(100);
    const Codebooks codebooks{values, 2, 8};
    const double before = encoding_error(points.view(), codebooks, codes);
    EXPECT_EQ(reseed_unused(points.view(), codebooks, codes), 14);
    EXPECT_LT(encoding_error(points.view(), codebooks, codes), before);
    EXPECT_EQ(reseed_unused(points.view(), codebooks, codes), 0);
}

double squared_error(const EncodedMatrix& encoded, std::span<const float> weight, std::int64_t columns,
                     const QuantizationSpec& spec) {
    double sum = 0;
    const std::int64_t size = std::int64_t{1} << spec.code_bits;
    for (std::size_t i = 0; i < weight.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        double value = 0;
        for (std::int64_t m = 0; m < spec.codebooks; ++m) {
            const std::int64_t code = encoded.codes[static_cast<std::size_t>(at / spec.group * spec.codebooks + m)];
            value += static_cast<double>(
                encoded.codebooks[static_cast<std::size_t>((m * size + code) * spec.group + at % spec.group)]);
        }
        value = value * static_cast<double>(encoded.scales[static_cast<std::size_t>(at / columns)]) -
                static_cast<double>(weight[i]);
        sum += value * value;
    }
    return sum;
}

TEST(Quantize, ErrorsOnGaussianWeights) {
    // Bounds from theory: at 2 bits a Gaussian weight loses at least 0.0625; the best scalar quantiser loses 0.1175.
    struct Case {
        QuantizationSpec spec;
        double most;
    };
    const Case cases[] = {{{"aqlm", 2, 8, 8}, 0.100}, {{"vq", 1, 8, 4}, 0.105}, {{"aqlm", 3, 4, 8}, 0.28}};
    std::vector<float> weight = gaussian(128 * 512, 10);
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] *= 0.01F * static_cast<float>(1 + i / 512 % 5);
    for (const Case& test : cases) {
        QuantizationReport report;
        const EncodedMatrix encoded = encode_on_cpu("w", weight, 128, 512, test.spec, 7, &report);
        EXPECT_LT(report.relative_mse(), test.most) << test.spec.codebooks;
        EXPECT_NEAR(squared_error(encoded, weight, 512, test.spec) / report.squared_error, 1, 1e-4);
    }
}

TEST(Quantize, RepeatsForAnyThreads) {
    const std::vector<float> weight = gaussian(48 * 256, 11);
    for (const QuantizationSpec& spec : {QuantizationSpec{"aqlm", 2, 6, 8}, QuantizationSpec{"vq", 1, 5, 16}}) {
        EncodedMatrix one;
        EncodedMatrix two;
        with_threads(1, [&] { one = encode_on_cpu("w", weight, 48, 256, spec, 3, nullptr, 1); });
        with_threads(2, [&] { two = encode_on_cpu("w", weight, 48, 256, spec, 3, nullptr, 2); });
        EXPECT_EQ(one.codes, two.codes);
        EXPECT_EQ(one.codebooks, two.codebooks);
        EXPECT_EQ(one.scales, two.scales);
    }
}

TEST(Quantize, TinyZeroAndExtremeMatrices) {
    std::vector<float> weight = gaussian(3 * 16, 12);
    std::fill_n(weight.begin() + 16, 16, 0.0F);  // a row of zeros
    for (const QuantizationSpec& spec :
         {QuantizationSpec{"aqlm", 2, 8, 8}, QuantizationSpec{"vq", 1, 12, 16}, QuantizationSpec{"aqlm", 4, 3, 4}}) {
        for (const float factor : {1.0F, 0.0F, 1e-30F, 1e3F}) {
            std::vector<float> scaled = weight;
            for (float& value : scaled) value *= factor;
            QuantizationReport report;
            const EncodedMatrix encoded = encode_on_cpu("w", scaled, 3, 16, spec, 1, &report);
            for (const float value : encoded.codebooks) EXPECT_TRUE(std::isfinite(value));
            for (const float value : encoded.scales) EXPECT_TRUE(std::isfinite(value));
            EXPECT_LE(report.squared_error, report.squared_norm * (1 + 1e-6));
            if (factor >= 1 && spec.code_bits >= 8) {
                EXPECT_LT(report.relative_mse(), 1e-3);
            }
        }
    }
}

TEST(Quantize, RefusesWhatItCannotEncode) {
    std::vector<float> weight(24, 1.0F);
    EXPECT_ERROR(encode_on_cpu("layers.3.up", weight, 2, 12, {}, 1), "layers.3.up", "--group 8");
    weight[17] = NAN;
    EXPECT_ERROR(encode_on_cpu("layers.3.up", weight, 3, 8, {}, 1), "layers.3.up", "[2, 1]");
    weight[17] = 1e30F;
    EXPECT_ERROR(encode_on_cpu("layers.3.up", weight, 3, 8, {}, 1), "layers.3.up", "row 2");
    EXPECT_ERROR(check_spec({"aqlm", 2, 17, 8}), "--code-bits 17", "16");
    EXPECT_ERROR(check_spec({"aqlm", 2, 8, 5}), "--group 5", "4, 8 or 16");
    EXPECT_ERROR(check_spec({"aqlm", 0, 8, 8}), "--codebooks 0", "1 to 8");
    EXPECT_ERROR(check_spec({"vq", 2, 8, 8}), "--codebooks 2", "vq");
    EXPECT_ERROR(check_spec({"nf4", 2, 8, 8}), "--representation nf4", "aqlm");
}

TEST(Quantize, CountsBits) {
    // 2x8 over groups of 8: 2 bits a weight, 2 * 256 * 8 codebook entries and 192 scales of 16 bits.
    EXPECT_EQ(bits_of({"aqlm", 2, 8, 8}, 192, 576), 192 * 576 * 2 + 16 * (2 * 256 * 8 + 192));
}

class AdditiveFile : public ::testing::Test {
protected:
    AdditiveFile() : backend(make_cpu_backend({})), path(folder.file("weights.h5")) {}

    void write(bool exact) {
        const std::vector<float> weight = gaussian(6 * 32, 13);
        original = quantize_matrix(*backend, "w", weight, 6, 32, {"aqlm", 2, 5, 8}, 1, {});
        StoreWriter store(path, "weights", "test");
        original->save(*backend, store, "/tensors/w", exact);
        store.commit();
    }
    /// A store whose group is as save() writes it but for what `change` does.
    struct Parts {
        std::string representation = "aqlm";
        std::int64_t rows = 3, columns = 16, group = 8, codebooks = 2, code_bits = 3;
        std::vector<std::int64_t> code_shape = {3, 2, 2}, book_shape = {2, 8, 8}, scale_shape = {3};
        DType code_type = DType::u8;
        std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(24);
        std::vector<float> books = std::vector<float>(128), scales = std::vector<float>(8);
    };
    template <class Change>
    void load(Change change) {
        Parts parts;
        change(parts);
        {
            StoreWriter store(path, "weights", "test");
            const std::string at = "/tensors/w";
            store.create_group(at);
            store.set_text(at, "representation", parts.representation);
            store.set_integer(at, "rows", parts.rows);
            store.set_integer(at, "columns", parts.columns);
            store.set_integer(at, "group", parts.group);
            store.set_integer(at, "codebooks", parts.codebooks);
            store.set_integer(at, "code_bits", parts.code_bits);
            store.write(at + "/codes", parts.code_type, parts.code_shape, parts.codes.data());
            store.write(at + "/codebooks", DType::f32, parts.book_shape, parts.books.data());
            store.write(at + "/scales", DType::f32, parts.scale_shape, parts.scales.data());
            store.commit();
        }
        const StoreReader reader(path, "weights");
        load_representation(*backend, reader, "/tensors/w");
    }

    TemporaryFolder folder;
    std::unique_ptr<Backend> backend;
    std::string path;
    std::unique_ptr<Representation> original;
};

TEST_F(AdditiveFile, ComesBackWithTheSameBits) {
    for (const bool exact : {false, true}) {  // fresh codebooks have 16 bits anyway
        write(exact);
        const StoreReader reader(path, "weights");
        const auto loaded = load_representation(*backend, reader, "/tensors/w");
        EXPECT_EQ(loaded->name(), "aqlm");
        EXPECT_EQ(loaded->bits(), original->bits());
        OwnedTensor before(DType::f32, {6, 32});
        OwnedTensor after(DType::f32, {6, 32});
        original->dequantize(backend->ops(), before);
        loaded->dequantize(backend->ops(), after);
        EXPECT_TRUE(same_bits(before, after));
    }
}

TEST_F(AdditiveFile, RefusesDamage) {
    load([](Parts&) {});
    const std::string file = path;
    EXPECT_ERROR(load([](Parts& p) { p.codes[5] = 8; }), file, "/tensors/w/codes: code 8 at 5");
    EXPECT_ERROR(load([](Parts& p) { p.books[3] = NAN; }), file, "/tensors/w/codebooks: element 3");
    EXPECT_ERROR(load([](Parts& p) { p.scales[1] = INFINITY; }), file, "/tensors/w/scales: element 1");
    EXPECT_ERROR(load([](Parts& p) { p.code_shape = {3, 4, 1}; }), file, "/tensors/w/codes: the shape");
    EXPECT_ERROR(load([](Parts& p) { p.book_shape = {2, 4, 16}; }), file, "/tensors/w/codebooks: the shape");
    EXPECT_ERROR(load([](Parts& p) { p.scale_shape = {4}; }), file, "/tensors/w/scales: the shape");
    EXPECT_ERROR(load([](Parts& p) {
                     p.code_type = DType::u16, p.code_shape = {3, 2, 1}, p.codebooks = 1;
                 }),
                 file, "aqlm with 1 codebooks");
    EXPECT_ERROR(load([](Parts& p) { p.code_bits = 9; }), file, "u8");
    EXPECT_ERROR(load([](Parts& p) { p.code_bits = 40; }), file, "code_bits is 40");
    EXPECT_ERROR(load([](Parts& p) { p.group = 12; }), file, "group");
    EXPECT_ERROR(load([](Parts& p) { p.columns = 20; }), file, "multiple");
    EXPECT_ERROR(load([](Parts& p) { p.rows = -1; }), file, "rows is -1");
    EXPECT_ERROR(load([](Parts& p) { p.rows = std::int64_t{1} << 40; }), file, "rows");
    EXPECT_ERROR(load([](Parts& p) { p.representation = "nf4"; }), file, "unknown representation 'nf4'");
}

}  // namespace
}  // namespace pvtune
