// The quip representation: quantising, the file, the space where V steps work.
#include "host/quant/quip.h"

#include "host/quant/quantize_matrix.h"
#include "host/tune/subspace.h"
#include "host/tune/v_step.h"
#include "io/error.h"
#include "tests/files.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

const QuantizationSpec two_bits{"quip", 1, 2, 8}, three_bits{"quip", 1, 3, 8}, four_bits{"quip", 1, 4, 8};

std::vector<float> gaussian(std::int64_t count, std::uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = normal(engine);
    return values;
}

class Quip : public ::testing::Test {
protected:
    std::unique_ptr<Representation> quantize(const std::vector<float>& weight, std::int64_t rows,
                                             const QuantizationSpec& spec, const std::vector<float>& hessian = {}) {
        return quantize_matrix(*backend, "layers.3.up", weight, rows, static_cast<std::int64_t>(weight.size()) / rows,
                               spec, 7, hessian, &report);
    }
    Values weights(const Representation& matrix) {
        const OwnedTensor weight(DType::f32, {matrix.rows(), matrix.columns()});
        matrix.dequantize(backend->ops(), weight);
        return values_of(weight);
    }

    std::unique_ptr<Backend> backend = make_cpu_backend({});
    QuantizationReport report;
};

TEST_F(Quip, ErrorsOnGaussianWeights) {
    // Theory: a Gaussian weight loses at least 1/16, 1/64 and 1/256 of its variance at 2, 3 and 4 bits. The residual
    // codebooks are farther from that than E8P itself: 0.089, 0.029 and 0.0085 measured.
    const std::pair<QuantizationSpec, double> cases[] = {{two_bits, 0.093}, {three_bits, 0.031}, {four_bits, 0.0092}};
    // Rows of different sizes and a few outliers: what the transforms are for.
    std::vector<float> weight = gaussian(144 * 384, 10);
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] *= 0.01F * static_cast<float>(1 + i / 384 % 5);
    for (std::size_t i = 0; i < weight.size(); i += 997) weight[i] *= 20;
    for (const auto& [spec, most] : cases) {
        const auto matrix = quantize(weight, 144, spec);
        EXPECT_LT(report.relative_mse(), most) << spec.code_bits;
        double error = 0;
        const Values found = weights(*matrix);
        for (std::size_t i = 0; i < found.size(); ++i) error += std::pow(found[i] - static_cast<double>(weight[i]), 2);
        EXPECT_NEAR(error / report.squared_error, 1, 1e-3);
        EXPECT_EQ(report.output_error, 0);
    }
}

TEST_F(Quip, AHessianLowersTheOutputError) {
    constexpr std::int64_t rows = 48, columns = 72;
    const std::vector<float> weight = gaussian(rows * columns, 11);
    // x = a common part and one of its own.
    std::vector<float> hessian(columns * columns, 1);
    const std::vector<float> own = gaussian(columns, 12);
    for (std::size_t i = 0; i < columns; ++i) hessian[i * columns + i] += 0.05F + own[i] * own[i];
    const auto output_error = [&](const Representation& matrix) {
        const Values found = weights(matrix);
        double sum = 0;
        for (std::size_t row = 0; row < rows; ++row) {
            for (std::size_t i = 0; i < columns; ++i) {
                for (std::size_t j = 0; j < columns; ++j) {
                    sum += (found[row * columns + i] - static_cast<double>(weight[row * columns + i])) *
                           static_cast<double>(hessian[i * columns + j]) *
                           (found[row * columns + j] - static_cast<double>(weight[row * columns + j]));
                }
            }
        }
        return sum;
    };
    for (const QuantizationSpec& spec : {two_bits, three_bits, four_bits}) {
        const double nearest = output_error(*quantize(weight, rows, spec));
        const auto matrix = quantize(weight, rows, spec, hessian);
        EXPECT_LT(output_error(*matrix), 0.95 * nearest) << spec.code_bits;
        EXPECT_NEAR(report.output_error / output_error(*matrix), 1, 1e-2);
        EXPECT_GT(report.output_norm, report.output_error);
    }
    // One that says nothing, and one that is broken: still a quantised matrix.
    for (const float value : {0.0F, NAN}) {
        quantize(weight, rows, two_bits, std::vector<float>(columns * columns, value));
        EXPECT_LT(report.relative_mse(), 0.12);
    }
}

TEST_F(Quip, TinyZeroAndExtremeMatrices) {
    const std::vector<float> weight = gaussian(3 * 16, 12);
    for (const QuantizationSpec& spec : {two_bits, three_bits, four_bits}) {
        for (const float factor : {1.0F, 0.0F, 1e-30F, 1e30F}) {
            std::vector<float> scaled = weight;
            for (float& value : scaled) value *= factor;
            const auto matrix = quantize(scaled, 3, spec);
            EXPECT_TRUE(std::isfinite(report.squared_error));
            EXPECT_LE(report.squared_error, report.squared_norm * 0.2);
            for (const double value : weights(*matrix)) EXPECT_TRUE(std::isfinite(value));
        }
    }
}

TEST_F(Quip, RepeatsForAnyThreads) {
    const std::vector<float> weight = gaussian(48 * 96, 13);
    std::vector<float> hessian(96 * 96, 0.5F);
    for (std::size_t i = 0; i < 96; ++i) hessian[i * 97] += 1;
    for (const std::vector<float>& h : {std::vector<float>{}, hessian}) {
        Values one;
        with_threads(1, [&] { one = weights(*quantize(weight, 48, three_bits, h)); });
        with_threads(3, [&] { EXPECT_EQ(one, weights(*quantize(weight, 48, three_bits, h))); });
    }
}

TEST_F(Quip, RefusesWhatItCannotEncode) {
    std::vector<float> weight(24, 1);
    EXPECT_ERROR(quantize(weight, 2, two_bits), "layers.3.up", "12 columns, not a multiple of 8");
    weight[17] = NAN;
    EXPECT_ERROR(quantize(weight, 3, two_bits), "layers.3.up", "[2, 1]");
    EXPECT_ERROR(quantize(std::vector<float>(1031 * 8), 1031, two_bits), "layers.3.up", "1031");
    EXPECT_ERROR(check_spec({"quip", 1, 5, 8}), "--code-bits 5", "2, 3 or 4");
    EXPECT_ERROR(check_spec({"quip", 2, 2, 8}), "--codebooks 2", "leave");
    EXPECT_ERROR(check_spec({"quip", 1, 2, 16}), "--group 16", "8 weights");
}

TEST_F(Quip, CountsBits) {
    EXPECT_EQ(bits_of(three_bits, 192, 576), 192 * 576 * 3 + 32 + 192 + 576);
    const auto matrix = quantize(gaussian(12 * 16, 1), 12, two_bits);
    EXPECT_EQ(matrix->bits(), 12 * 16 * 2 + 32 + 12 + 16);
}

TEST_F(Quip, CodeSpaceIsWhereGroupsAreAssigned) {
    const std::vector<float> weight = gaussian(24 * 40, 14);
    const auto matrix = quantize(weight, 24, two_bits);
    Ops& ops = backend->ops();
    const OwnedTensor decoded(DType::f32, {24, 40});
    const OwnedTensor scores(DType::f32, {120});
    // Of nothing else than W the target is what the codes stand for.
    const auto decode = [&](Tensor values) {
        matrix->dequantize(ops, decoded);
        matrix->target_to_code_space(ops, values, scores, decoded, decoded);
    };
    OwnedTensor before(DType::f32, {24, 40});
    decode(before);
    // What was quantised, in code space: the nearest codes are there already.
    OwnedTensor target(DType::f32, {24, 40});
    std::copy(weight.begin(), weight.end(), target->as<float>());
    matrix->target_to_code_space(ops, target, scores, target, decoded);
    OwnedTensor now(DType::f32, {24, 40});
    OwnedTensor groups(DType::u32, {120});
    groups.fill([next = 0]() mutable { return next++; });
    OwnedTensor changed(DType::u8, {120});
    const OwnedTensor saved(DType::u8, {120, matrix->codes_per_group()});
    matrix->gather_codes(ops, saved, groups);
    matrix->assign(ops, changed, target, groups, 1);
    int moved = 0;
    for (int i = 0; i < 120; ++i) moved += changed->as<std::uint8_t>()[i];
    EXPECT_LT(moved, 12);  // the scale was fitted after the codes
    // Others all go to the target's codes, and come back.
    for (std::int64_t i = 0; i < 960; ++i) target->as<float>()[i] *= -1;
    matrix->assign(ops, changed, target, groups, 1);
    decode(now);
    EXPECT_LT(relative_error(now, values_of(target)), 0.5);
    OwnedTensor change(DType::f32, {120});
    matrix->code_change(ops, change, saved, groups);
    for (const double value : values_of(change)) EXPECT_GT(value, 0);
    matrix->restore_codes(ops, saved, groups, OwnedTensor(DType::u8, {120}));
    decode(now);
    EXPECT_TRUE(same_bits(now, before));
}

TEST_F(Quip, AVStepMovesEveryWeightAlikeAndItsCodesFollow) {
    constexpr std::int64_t rows = 24, columns = 40, groups = rows * columns / 8;
    Model model;
    model.blocks.resize(1);
    Matrix& matrix = model.blocks[0].matrices[0];
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.weight = backend->arena().allocate("weights", DType::f32, {rows, columns});
    matrix.quantized = quantize(gaussian(rows * columns, 15), rows, two_bits);
    matrix.quantized->dequantize(backend->ops(), matrix.weight);
    const Values before = values_of(matrix.weight);
    // An input with huge activations: its column of gradients is most of every group's between the transforms.
    OwnedTensor gradient = random_tensor(DType::f32, {rows, columns}, 16);
    for (std::int64_t row = 0; row < rows; ++row) gradient->as<float>()[row * columns + 3] *= 1000;
    const Values g = values_of(gradient);

    TuneSettings settings;
    settings.strategy = Strategy::pv_ste;
    settings.code_rate = 0.3F;
    settings.tau = 1;
    VState state = allocate_v_state(backend->arena(), matrix, settings);
    state.score_squares = backend->arena().allocate("record", DType::f64, {1});
    state.predicted = backend->arena().allocate("record", DType::f64, {1});
    state.changed = backend->arena().allocate("record", DType::u32, {1});
    const VScratch scratch = allocate_v_scratch(backend->arena(), model, settings);
    start_v_state(backend->ops(), matrix, state, scratch);
    v_step(backend->ops(), matrix, state, scratch, settings, {gradient, 1, 1, 1, groups});

    // The first update is a sign, scaled to the matrix's norm.
    const double step = 0.3 * std::sqrt(dot(before, before) / static_cast<double>(before.size()));
    Values wanted = before;
    for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] -= g[i] > 0 ? step : -step;
    EXPECT_LT(relative_error(state.buffer, wanted), 1e-5);
    const auto changed = *state.changed.as<std::uint32_t>();
    EXPECT_GT(changed, 0);
    EXPECT_LT(changed, groups);
    // The way of the codes is that of the buffer in part, and what the ledger says of it.
    Values way = weights(*matrix.quantized);
    for (std::size_t i = 0; i < way.size(); ++i) way[i] -= before[i];
    for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] -= before[i];
    EXPECT_GT(dot(way, wanted) / std::sqrt(dot(way, way) * dot(wanted, wanted)), 0.5);
    EXPECT_NEAR(*state.predicted.as<double>() / dot(way, g), 1, 1e-4);
}

class QuipFile : public Quip {
protected:
    QuipFile() : path(folder.file("weights.h5")) {}

    void write(const Representation& matrix, bool exact) {
        StoreWriter store(path, "weights", "test");
        matrix.save(*backend, store, "/tensors/w", exact);
        store.commit();
    }
    /// A store whose group is as save() writes it but for what `change` does.
    struct Parts {
        std::int64_t rows = 3, columns = 16, group = 8, code_bits = 3;
        bool signs = true;
        std::vector<std::int64_t> code_shape = {3, 2, 3}, sign_shape = {1}, left_shape = {3};
        DType code_type = DType::u8;
        std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(64);
        std::vector<float> scale = {1}, sides = std::vector<float>(16, 1);
    };
    template <class Change>
    void load(Change change) {
        Parts parts;
        change(parts);
        {
            StoreWriter store(path, "weights", "test");
            const std::string at = "/tensors/w";
            store.create_group(at);
            store.set_text(at, "representation", "quip");
            store.set_integer(at, "rows", parts.rows);
            store.set_integer(at, "columns", parts.columns);
            store.set_integer(at, "group", parts.group);
            store.set_integer(at, "code_bits", parts.code_bits);
            store.write(at + "/codes", parts.code_type, parts.code_shape, parts.codes.data());
            store.write(at + "/scale", DType::f32, {1}, parts.scale.data());
            if (parts.signs) {
                store.write(at + "/left_signs", DType::u8, parts.sign_shape, parts.codes.data());
                store.write(at + "/right_signs", DType::u8, {2}, parts.codes.data());
            } else {
                store.write(at + "/left", DType::f32, parts.left_shape, parts.sides.data());
                store.write(at + "/right", DType::f32, {16}, parts.sides.data());
            }
            store.commit();
        }
        const StoreReader reader(path, "weights");
        load_representation(*backend, reader, "/tensors/w");
    }

    TemporaryFolder folder;
    std::string path;
};

TEST_F(QuipFile, ComesBackWithTheSameBits) {
    for (const QuantizationSpec& spec : {two_bits, three_bits, four_bits}) {
        const auto original = quantize(gaussian(20 * 24, 15), 20, spec);
        for (const bool exact : {false, true}) {
            write(*original, exact);
            const StoreReader reader(path, "weights");
            EXPECT_EQ(reader.has("/tensors/w/left_signs"), !exact);
            const auto loaded = load_representation(*backend, reader, "/tensors/w");
            EXPECT_EQ(loaded->name(), "quip");
            if (!exact) {
                EXPECT_EQ(loaded->bits(), original->bits());
                const auto planned = load_representation(*make_cpu_backend({.planning = true}), reader, "/tensors/w");
                EXPECT_EQ(planned->bits(), original->bits());
            }
            EXPECT_EQ(weights(*loaded), weights(*original));
        }
    }
}

TEST_F(QuipFile, RelaxedSignsHaveSixteenBits) {
    const auto original = quantize(gaussian(20 * 24, 16), 20, two_bits);
    const auto parameters = original->parameters();
    ASSERT_EQ(parameters.size(), 3U);
    for (const ContinuousParameter& parameter : parameters) parameter.value.as<float>()[0] *= 1.25F;  // exact in f16
    write(*original, false);
    const StoreReader reader(path, "weights");
    const auto loaded = load_representation(*backend, reader, "/tensors/w");
    EXPECT_EQ(loaded->bits(), 20 * 24 * 2 + 32 + 16 * (20 + 24));
    EXPECT_EQ(weights(*loaded), weights(*original));
}

TEST_F(QuipFile, RoundedAsStoredItComesBackTheSame) {
    const auto matrix = quantize(gaussian(20 * 24, 17), 20, two_bits);
    const std::int64_t signs = matrix->bits();
    matrix->round_as_stored(*backend);
    EXPECT_EQ(matrix->bits(), signs);
    for (const ContinuousParameter& parameter : matrix->parameters()) parameter.value.as<float>()[0] *= 1.2345678F;
    matrix->round_as_stored(*backend);
    write(*matrix, false);
    const StoreReader reader(path, "weights");
    const auto loaded = load_representation(*backend, reader, "/tensors/w");
    EXPECT_EQ(loaded->bits(), matrix->bits());
    EXPECT_GT(loaded->bits(), signs);
    EXPECT_EQ(weights(*loaded), weights(*matrix));
}

TEST_F(QuipFile, RefusesDamage) {
    load([](Parts&) {});
    load([](Parts& p) { p.signs = false; });
    const std::string file = path;
    EXPECT_ERROR(load([](Parts& p) { p.scale[0] = NAN; }), file, "/tensors/w/scale: element 0");
    EXPECT_ERROR(load([](Parts& p) { p.code_shape = {3, 3, 2}; }), file, "/tensors/w/codes: the shape");
    EXPECT_ERROR(load([](Parts& p) { p.code_type = DType::u16; }), file, "/tensors/w/codes: the type is u16");
    EXPECT_ERROR(load([](Parts& p) { p.sign_shape = {2}; }), file, "/tensors/w/left_signs: the shape");
    EXPECT_ERROR(load([](Parts& p) { p.signs = false, p.left_shape = {4}; }), file, "/tensors/w/left: the shape");
    EXPECT_ERROR(load([](Parts& p) { p.signs = false, p.sides[2] = INFINITY; }), file, "/tensors/w/left: element 2");
    EXPECT_ERROR(load([](Parts& p) { p.code_bits = 5; }), file, "code_bits is 5");
    EXPECT_ERROR(load([](Parts& p) { p.group = 16; }), file, "group is 16");
    EXPECT_ERROR(load([](Parts& p) { p.columns = 20; }), file, "multiple of 8");
    EXPECT_ERROR(load([](Parts& p) { p.rows = -1; }), file, "rows is -1");
    EXPECT_ERROR(load([](Parts& p) { p.rows = 1031; }), file, "1031");
}

}  // namespace
}  // namespace pvtune
