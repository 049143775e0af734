// PV-Tuning as a whole, on tiny models: the loss against plain means, codes and parameters that move or stay, micro-
// batches, repeated and resumed runs bit for bit, and what must be refused.
#include "host/backend/cpu/amx.h"
#include "host/quant/quantize_model.h"
#include "host/tune/batches.h"
#include "host/tune/tuner.h"
#include "tests/files.h"
#include "tests/model_store.h"

#include <limits>

namespace pvtune {
namespace {

using namespace pvtune::testing;

constexpr std::int64_t vocabulary = 41;
constexpr std::int64_t length = 12;
constexpr const char* untied_config = R"({"model_type": "llama", "vocab_size": 41, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "tie_word_embeddings": false, "attention_bias": true, "hidden_act": "silu"})";
constexpr const char* tied_config = R"({"model_type": "llama", "vocab_size": 41, "hidden_size": 32,
    "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "tie_word_embeddings": true, "hidden_act": "silu"})";
constexpr Strategy all_strategies[] = {Strategy::continuous, Strategy::pv, Strategy::pv_ste};

struct SessionOptions {
    DType precision = DType::f32;
    Activations activations = Activations::keep;
    int threads = 1;
    std::string checkpoint = {};
    std::string source = "the files";
    std::function<void(Model& student, Model& teacher)> spoil = [](Model&, Model&) {};
};

/// A Tuner with all that it stands on.
class Session {
public:
    Session(const TemporaryFolder& folder, const TuneSettings& settings, const SessionOptions& options = {})
        : backend_(make_cpu_backend({.threads = options.threads})),
          store_(folder.file("q.h5"), "weights"),
          settings_(settings),
          tuner_(make_tuner(folder, options)) {
        if (options.checkpoint.empty()) {
            tuner_.start(store_);
        } else {
            tuner_.load_checkpoint(StoreReader(options.checkpoint, "checkpoint"), options.source);
        }
    }

    /// Steps until `steps` are done; returns the reports.
    std::vector<StepReport> run_to(std::int64_t steps, std::span<const std::uint32_t> tokens) {
        Batches batches(tokens, settings_.length, settings_.seed, settings_.shuffle);
        std::vector<StepReport> reports;
        while (tuner_.steps_done() < steps) {
            std::vector<std::vector<std::uint32_t>> sequences;
            for (std::int64_t i = 0; i < settings_.batch; ++i) {
                const auto sequence = batches.sequence(tuner_.steps_done() * settings_.batch + i);
                sequences.emplace_back(sequence.begin(), sequence.end());
            }
            reports.push_back(tuner_.step(sequences));
        }
        return reports;
    }

    Tuner& tuner() { return tuner_; }
    const StoreReader& store() const { return store_; }

private:
    Tuner make_tuner(const TemporaryFolder& folder, const SessionOptions& options) {
        std::unique_ptr<StoreReader> checkpoint;
        if (!options.checkpoint.empty()) checkpoint = std::make_unique<StoreReader>(options.checkpoint, "checkpoint");
        Model student =
            load_model(*backend_, store_, options.precision, settings_.length, Residency::one_block, checkpoint.get());
        Model teacher = load_model(*backend_, StoreReader(folder.file("model.h5"), "weights"), options.precision,
                                   settings_.length, Residency::all);
        options.spoil(student, teacher);
        return {*backend_, settings_, std::move(student), std::move(teacher), options.activations};
    }

    std::unique_ptr<Backend> backend_;
    StoreReader store_;
    TuneSettings settings_;
    Tuner tuner_;
};

std::vector<std::uint32_t> text_of(std::int64_t windows) {
    std::mt19937 engine(7);
    std::vector<std::uint32_t> tokens(static_cast<std::size_t>(windows * length));
    for (auto& token : tokens) token = engine() % vocabulary;
    return tokens;
}

class Tuning : public ::testing::Test {
protected:
    Tuning() { write_models(untied_config, {"aqlm", 2, 4, 4}); }

    /// Made once a config and spec, for all tests.
    void write_models(const char* config, const QuantizationSpec& spec) {
        static TemporaryFolder cache;
        const std::string key = std::string(config == tied_config ? "tied" : "untied") +
                                std::to_string(spec.codebooks) + std::to_string(spec.group);
        const auto copy = [&](const std::string& name) {
            std::filesystem::copy(cache.file(key + name), folder_.file(name),
                                  std::filesystem::copy_options::overwrite_existing);
        };
        if (!std::filesystem::exists(cache.file(key + "q.h5"))) make_models(cache.file(key), config, spec);
        copy("model.h5");
        copy("q.h5");
    }

    static void make_models(const std::string& prefix, const char* config, const QuantizationSpec& spec) {
        std::uint32_t seed = 1;
        write_weights_store(prefix + "model.h5", config, [&](const TensorSpec& tensor) {
            const bool vector = tensor.shape.size() == 1;
            std::vector<float> values(static_cast<std::size_t>(tensor.shape[0] * (vector ? 1 : tensor.shape[1])));
            Uniform next(seed++, vector ? 0.2 : 0.5);
            const double middle = tensor.name.ends_with("norm.weight") ? 1 : 0;
            for (float& value : values) value = static_cast<float>(middle + next());
            return values;
        });
        quantize_model(
            StoreReader(prefix + "model.h5", "weights"), spec, prefix + "q.h5", "a test", 0,
            [] { return make_cpu_backend({.threads = 1}); }, [](const QuantizedMatrix&) {});
    }

    /// Rates at which a handful of steps moves values and codes.
    static TuneSettings quick(Strategy strategy) {
        TuneSettings settings;
        settings.strategy = strategy;
        settings.batch = 4;
        settings.length = length;
        settings.seed = 3;
        settings.rate = 3e-3F;
        settings.code_rate = 0.03F;
        settings.tau = 0.05;
        return settings;
    }

    std::string save_model(Session& session) const {
        return session.tuner().save_model(folder_.file("tuned.h5"), "a test", session.store());
    }
    /// The hash over every bit of a run's state: codes, parameters, moments, buffers.
    std::string state_hash(const Session& session) const {
        const std::string path = folder_.file("state");
        const_cast<Session&>(session).tuner().save_checkpoint(path, "a test", "the files");
        return StoreReader(path, "checkpoint").content_hash();
    }

    TemporaryFolder folder_;
};

std::map<std::string, std::vector<std::uint8_t>> codes_of(const std::string& path) {
    std::map<std::string, std::vector<std::uint8_t>> codes;
    const StoreReader store(path, "");
    for (const std::string& name : store.children("/tensors")) {
        const std::string dataset = "/tensors/" + name + "/codes";
        if (!store.is_group("/tensors/" + name)) continue;
        codes[name].resize(static_cast<std::size_t>(store.info(dataset).elements()));
        store.read(dataset, codes[name].data(), store.info(dataset).bytes());
    }
    return codes;
}

std::vector<float> floats_in(const StoreReader& store, const std::string& dataset) {
    std::vector<float> values(static_cast<std::size_t>(store.info(dataset).elements()));
    store.read(dataset, values.data(), store.info(dataset).bytes());
    return values;
}

/// f16, as it stands in the file.
std::vector<std::uint16_t> codebooks_in(const StoreReader& store, const std::string& matrix) {
    const TensorInfo info = store.info(matrix + "/codebooks");
    std::vector<std::uint16_t> values(static_cast<std::size_t>(info.elements()));
    store.read(matrix + "/codebooks", values.data(), info.bytes());
    return values;
}

Values in_double(const std::vector<float>& values) { return {values.begin(), values.end()}; }

/// Groups whose codes differ, a matrix.
std::map<std::string, std::int64_t> changed_groups(const std::map<std::string, std::vector<std::uint8_t>>& before,
                                                   const std::map<std::string, std::vector<std::uint8_t>>& after,
                                                   std::size_t books) {
    std::map<std::string, std::int64_t> changed;
    for (const auto& [name, codes] : before) {
        for (std::size_t i = 0; i < codes.size(); i += books) {
            changed[name] += std::memcmp(codes.data() + i, after.at(name).data() + i, books) != 0 ? 1 : 0;
        }
    }
    return changed;
}

Values softmax(const float* logits) {
    Values weights(vocabulary);
    double sum = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) sum += weights[i] = std::exp(static_cast<double>(logits[i]));
    for (double& weight : weights) weight /= sum;
    return weights;
}

std::vector<float> logits_of(const std::string& path, const std::vector<std::uint32_t>& tokens) {
    const auto backend = make_cpu_backend({.threads = 1});
    const Model model = load_model(*backend, StoreReader(path, "weights"), DType::f32, length, Residency::all);
    const auto count = static_cast<std::int64_t>(tokens.size());
    OwnedTensor ids(DType::u32, {count});
    for (std::int64_t t = 0; t < count; ++t) ids.set(t, tokens[static_cast<std::size_t>(t)]);
    return Pass(*backend, model, {count / length, length}, {})
        .run(ids, std::vector<std::int64_t>(tokens.size()))
        .logits;
}

TEST_F(Tuning, LossIsTheMeanKlToTheTeacher) {
    const auto tokens = text_of(4);
    const auto student = logits_of(folder_.file("q.h5"), tokens);
    const auto teacher = logits_of(folder_.file("model.h5"), tokens);
    double kl = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
        const Values p = softmax(teacher.data() + t * vocabulary);
        const Values q = softmax(student.data() + t * vocabulary);
        for (std::size_t i = 0; i < p.size(); ++i) kl += p[i] * std::log(p[i] / q[i]);
    }
    kl /= static_cast<double>(tokens.size());
    ASSERT_GT(kl, 0.01);
    for (const Strategy strategy : all_strategies) {
        Session session(folder_, quick(strategy));
        EXPECT_NEAR(session.run_to(1, tokens)[0].loss, kl, 1e-5 * kl);
    }
}

TEST_F(Tuning, ContinuousMovesValuesButNoCodes) {
    const auto tokens = text_of(4);
    Session session(folder_, quick(Strategy::continuous));
    const auto reports = session.run_to(30, tokens);
    save_model(session);
    EXPECT_EQ(codes_of(folder_.file("tuned.h5")), codes_of(folder_.file("q.h5")));
    EXPECT_LT(reports[3].loss, reports[0].loss);
    EXPECT_LT(reports[29].loss, 0.7 * reports[0].loss);
    for (const StepReport& report : reports) EXPECT_EQ(report.changed + report.selected + report.groups, 0);
    const StoreReader before(folder_.file("q.h5"), "weights");
    const StoreReader after(folder_.file("tuned.h5"), "weights");
    for (const TensorSpec& spec : tensor_specs(read_config(before))) {
        if (spec.block_matrix) continue;
        EXPECT_NE(floats_in(before, "/tensors/" + spec.name), floats_in(after, "/tensors/" + spec.name)) << spec.name;
    }
    after.verify();
}

TEST_F(Tuning, DenseParametersStayWhenTheyAreNotTrained) {
    TuneSettings settings = quick(Strategy::pv_ste);
    settings.train_dense = false;
    Session session(folder_, settings);
    const auto reports = session.run_to(10, text_of(4));
    EXPECT_LT(reports[9].loss, reports[0].loss);
    save_model(session);
    const StoreReader before(folder_.file("q.h5"), "weights");
    const StoreReader after(folder_.file("tuned.h5"), "weights");
    for (const TensorSpec& spec : tensor_specs(read_config(before))) {
        const std::string path = "/tensors/" + spec.name;
        if (spec.block_matrix) {
            EXPECT_NE(codebooks_in(before, path), codebooks_in(after, path)) << spec.name;
        } else {
            EXPECT_EQ(floats_in(before, path), floats_in(after, path)) << spec.name;
        }
    }
}

TEST_F(Tuning, VStepsChangeAtMostTheShareTau) {
    for (const Strategy strategy : {Strategy::pv, Strategy::pv_ste}) {
        const TuneSettings settings = quick(strategy);
        Session session(folder_, settings);
        auto codes = codes_of(folder_.file("q.h5"));
        std::int64_t changed_in_all = 0;
        for (std::int64_t step = 1; step <= 4; ++step) {
            const StepReport report = session.run_to(step, text_of(4)).at(0);
            state_hash(session);
            const auto after = codes_of(folder_.file("state"));
            std::int64_t changed = 0;
            std::int64_t allowed = 0;
            for (const auto& [name, count] : changed_groups(codes, after, 2)) {
                const double groups = static_cast<double>(codes[name].size() / 2);
                const auto most = static_cast<std::int64_t>(std::ceil(settings.tau * groups));
                EXPECT_LE(count, most) << name;
                changed += count;
                allowed += most;
            }
            EXPECT_EQ(report.changed, changed);
            EXPECT_EQ(report.selected, allowed);
            changed_in_all += changed;
            codes = after;
        }
        EXPECT_GT(changed_in_all, 0) << name_of(strategy);
    }
}

TEST_F(Tuning, LossFallsWithVSteps) {
    for (const bool tied : {false, true}) {
        write_models(tied ? tied_config : untied_config,
                     tied ? QuantizationSpec{"vq", 1, 5, 4} : QuantizationSpec{"aqlm", 2, 4, 8});
        for (const Strategy strategy : {Strategy::pv, Strategy::pv_ste}) {
            Session session(folder_, quick(strategy));
            const auto reports = session.run_to(30, text_of(4));
            EXPECT_LT(reports[29].loss, 0.7 * reports[0].loss) << name_of(strategy);
        }
    }
}

// A gradient is a sum of terms of mixed sign over 48 tokens; micro-batches only group them differently.
TEST_F(Tuning, MicroBatchesAddUpToTheBatch) {
    std::vector<double> losses;
    std::vector<std::unique_ptr<StoreReader>> states;
    for (const std::int64_t micro_batch : {1, 2, 4}) {
        TuneSettings settings = quick(Strategy::continuous);
        settings.micro_batch = micro_batch;
        Session session(folder_, settings);
        losses.push_back(session.run_to(1, text_of(4))[0].loss);
        const std::string path = folder_.file("state" + std::to_string(micro_batch));
        session.tuner().save_checkpoint(path, "a test", "");
        states.push_back(std::make_unique<StoreReader>(path, "checkpoint"));
    }
    for (std::size_t i = 1; i < states.size(); ++i) {
        EXPECT_NEAR(losses[i], losses[0], 1e-6 * losses[0]);
        for (const std::string& name : states[0]->children("/parameters")) {
            const std::string path = "/parameters/" + name;
            const auto value = [&](std::size_t state, const char* part) {
                return in_double(floats_in(*states[state], path + part));
            };
            // One step from zero: the first moment is a tenth of the gradient.
            Values moments = value(0, "/first_moment");
            EXPECT_LT(relative_error(value(i, "/first_moment"), moments), 4 * f32_tolerance) << name;
            EXPECT_LT(relative_error(value(i, "/second_moment"), value(0, "/second_moment")), 8 * f32_tolerance);
            // Adam's first update is the gradient's sign: that of a gradient near zero is left to rounding.
            double largest = 0;
            for (const double moment : moments) largest = std::max(largest, std::abs(moment));
            Values expected = value(0, "/value");
            Values got = value(i, "/value");
            for (std::size_t j = 0; j < moments.size(); ++j) {
                if (std::abs(moments[j]) < 1e-3 * largest) got[j] = expected[j];
            }
            EXPECT_LT(relative_error(got, expected), 1e-4) << name;
        }
    }
}

TEST_F(Tuning, KeptAndRecomputedActivationsGiveTheSameBits) {
    for (const DType precision : {DType::f32, DType::bf16}) {
        for (const Strategy strategy : all_strategies) {
            TuneSettings settings = quick(strategy);
            settings.micro_batch = 2;
            std::vector<std::string> models, states;
            for (const Activations activations : {Activations::keep, Activations::recompute}) {
                Session session(folder_, settings, {.precision = precision, .activations = activations});
                session.run_to(3, text_of(10));
                models.push_back(save_model(session));
                states.push_back(state_hash(session));
            }
            EXPECT_EQ(models[0], models[1]);
            EXPECT_EQ(states[0], states[1]);
        }
    }
}

TEST_F(Tuning, RunsRepeat) {
    for (const DType precision : {DType::f32, DType::bf16}) {
        for (const Strategy strategy : all_strategies) {
            std::vector<std::string> hashes;
            for (int i = 0; i < 2; ++i) {
                Session session(folder_, quick(strategy), {.precision = precision, .threads = 2});
                session.run_to(3, text_of(10));
                hashes.push_back(state_hash(session));
            }
            EXPECT_EQ(hashes[0], hashes[1]) << name_of(strategy);
        }
    }
}

TEST_F(Tuning, SameBitsForAnyNumberOfThreadsOnAmx) {
    if (!cpu::amx_available()) GTEST_SKIP() << "no AMX here: a library multiplies";
    for (const Strategy strategy : all_strategies) {
        std::vector<std::string> hashes;
        for (const int threads : {1, 2, 3}) {
            Session session(folder_, quick(strategy), {.precision = DType::bf16, .threads = threads});
            session.run_to(3, text_of(10));
            hashes.push_back(state_hash(session));
        }
        EXPECT_EQ(hashes[0], hashes[1]);
        EXPECT_EQ(hashes[0], hashes[2]);
    }
}

// oneDNN's f32 products may split sums by the number of threads, so that the last bits may differ, and Adam's first
// updates are signs, which turn a rounding of a gradient near zero into a whole update of that one value. The loss, a
// mean over all tokens, hardly sees either.
TEST_F(Tuning, ThreadsHardlyMatterInF32) {
    std::vector<double> losses;
    for (const int threads : {1, 2}) {
        Session session(folder_, quick(Strategy::continuous), {.threads = threads});
        losses.push_back(session.run_to(4, text_of(4))[3].loss);
    }
    EXPECT_NEAR(losses[1], losses[0], 1e-3 * losses[0]);
}

class Resuming : public Tuning {
protected:
    static TuneSettings settings_of(Strategy strategy) {
        TuneSettings settings = quick(strategy);
        settings.steps = 6;
        settings.schedule = Schedule::cosine;
        settings.warmup = 2;
        settings.trust_ratio = 0.1;
        return settings;
    }
    /// Leaves a checkpoint of three steps; an epoch is ten windows, three steps take twelve.
    std::string checkpoint(const TuneSettings& settings, DType precision = DType::f32) const {
        Session session(folder_, settings, {.precision = precision});
        session.run_to(3, text_of(10));
        const std::string path = folder_.file("checkpoint");
        session.tuner().save_checkpoint(path, "a test", "the files");
        return path;
    }
};

TEST_F(Resuming, GivesTheBitsOfARunThatWasNotStopped) {
    for (const DType precision : {DType::f32, DType::bf16}) {
        write_models(precision == DType::f32 ? untied_config : tied_config, {"aqlm", 2, 4, 4});
        for (const Strategy strategy : all_strategies) {
            const TuneSettings settings = settings_of(strategy);
            Session straight(folder_, settings, {.precision = precision});
            straight.run_to(6, text_of(10));
            Session resumed(folder_, settings, {.precision = precision, .checkpoint = checkpoint(settings, precision)});
            EXPECT_EQ(resumed.tuner().steps_done(), 3);
            resumed.run_to(6, text_of(10));
            EXPECT_EQ(save_model(straight), save_model(resumed)) << name_of(strategy);
            EXPECT_EQ(state_hash(straight), state_hash(resumed)) << name_of(strategy);
        }
    }
}

TEST_F(Resuming, RefusesOtherSettingsAndSources) {
    const TuneSettings settings = settings_of(Strategy::pv_ste);
    const std::string path = checkpoint(settings);
    EXPECT_ERROR(Session(folder_, settings, {.checkpoint = path, .source = "other files"}), path, "another --model");
    const auto refused = [&](auto change) {
        TuneSettings other = settings;
        change(other);
        EXPECT_ERROR(Session(folder_, other, {.checkpoint = path}), path, "other settings");
    };
    refused([](TuneSettings& other) { other.rate *= 2; });
    refused([](TuneSettings& other) { other.strategy = Strategy::pv; });
    refused([](TuneSettings& other) { other.seed = 4; });
    refused([](TuneSettings& other) { other.steps = 7; });  // the schedule ends elsewhere
    refused([](TuneSettings& other) { other.micro_batch = 1; });
    EXPECT_ERROR(StoreReader(path, "weights"), path, "checkpoint");
    // A model of another shape: found when its matrices are missing or of another size.
    write_models(tied_config, {"aqlm", 2, 4, 4});
    EXPECT_ERROR(Session(folder_, settings, {.checkpoint = path}), path, "");
}

TEST_F(Resuming, RefusesADamagedCheckpoint) {
    const TuneSettings settings = settings_of(Strategy::pv_ste);
    const std::string path = checkpoint(settings);
    const std::string whole = read_file(path);
    const std::string matrix = "model.layers.1.mlp.up_proj.weight";
    for (const std::string& dataset :
         {"/v/" + matrix + "/buffer", "/v/" + matrix + "/second_moment", "/tensors/" + matrix + "/codes",
          std::string("/parameters/model.norm.weight/value")}) {
        std::string bytes;
        {
            const StoreReader store(path, "checkpoint");
            bytes.resize(static_cast<std::size_t>(store.info(dataset).bytes()));
            store.read(dataset, bytes.data(), store.info(dataset).bytes());
        }
        const std::size_t at = whole.find(bytes);
        ASSERT_NE(at, std::string::npos) << dataset;
        std::string damaged = whole;
        damaged[at + bytes.size() / 2] = static_cast<char>(damaged[at + bytes.size() / 2] ^ 1);
        write_file(path, damaged);
        EXPECT_ERROR(Session(folder_, settings, {.checkpoint = path}), path, "");
        write_file(path, whole);
    }
    for (const std::size_t size : {std::size_t{0}, whole.size() / 2, whole.size() - 1}) {
        write_file(path, whole.substr(0, size));
        EXPECT_ERROR(Session(folder_, settings, {.checkpoint = path}), path, "");
    }
}

void set_nan(Tensor tensor) { tensor.as<float>()[3] = std::numeric_limits<float>::quiet_NaN(); }

TEST_F(Tuning, ANanInAWeightStopsTheRunAndIsNamed) {
    const auto stops = [&](const std::function<void(Model&, Model&)>& spoil, const std::string& name) {
        Session session(folder_, quick(Strategy::pv_ste), {.spoil = spoil});
        EXPECT_ERROR(session.run_to(2, text_of(4)), "step 1", name);
    };
    stops([](Model&, Model& teacher) { set_nan(teacher.blocks[1].matrices[gate].weight); },
          "the teacher's model.layers.1.mlp.gate_proj.weight");
    stops([](Model&, Model& teacher) { set_nan(teacher.final_norm); }, "the teacher's model.norm.weight");
    stops([](Model& student, Model&) { set_nan(student.blocks[2].attention_norm); },
          "model.layers.2.input_layernorm.weight");
    stops([](Model& student, Model&) { set_nan(student.blocks[0].matrices[key].quantized->parameters()[1].value); },
          "model.layers.0.self_attn.k_proj.weight.scales");
    stops([](Model& student, Model&) { set_nan(student.blocks[0].matrices[value].bias); },
          "the bias of model.layers.0.self_attn.v_proj.weight");
    stops([](Model& student, Model&) { set_nan(student.head); }, "lm_head.weight");
}

TEST_F(Tuning, AbsurdRatesStopTheRun) {
    TuneSettings settings = quick(Strategy::continuous);
    settings.rate = 1e36F;
    Session hot(folder_, settings);
    EXPECT_ERROR(hot.run_to(3, text_of(4)), "step 2", "not finite");

    // What a single step leaves is found when it is to be written, and nothing is.
    settings.rate = std::numeric_limits<float>::max();
    Session last(folder_, settings);
    last.run_to(1, text_of(4));
    EXPECT_ERROR(save_model(last), "--lr", "");
    EXPECT_ERROR(last.tuner().save_checkpoint(folder_.file("state"), "a test", ""), "--lr", "not finite");
    for (const Strategy strategy : {Strategy::pv, Strategy::pv_ste}) {
        settings = quick(strategy);
        settings.code_rate = settings.subspace_rate = 1e30F;
        Session codes(folder_, settings);
        EXPECT_ERROR(codes.run_to(1, text_of(4)), "step 1: ", "model.layers.2.");
    }
    for (const char* name : {"tuned.h5", "state"}) {
        EXPECT_FALSE(std::filesystem::exists(folder_.file(name)));
        EXPECT_FALSE(std::filesystem::exists(folder_.file(std::string(name) + ".partial")));
    }
}

TEST_F(Tuning, RefusesATeacherOfAnotherShape) {
    TemporaryFolder other;
    std::filesystem::copy(folder_.file("q.h5"), other.file("q.h5"));
    write_models(tied_config, {"aqlm", 2, 4, 4});
    std::filesystem::copy(folder_.file("model.h5"), other.file("model.h5"));
    EXPECT_ERROR(Session(other, quick(Strategy::pv)), "the teacher", "width of 32");
}

}  // namespace
}  // namespace pvtune
