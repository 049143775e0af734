#pragma once

#include "host/quant/quantize_model.h"
#include "host/tune/batches.h"
#include "host/tune/tuner.h"
#include "io/error.h"
#include "tests/files.h"
#include "tests/model_store.h"

#include <cstring>
#include <map>

/// Tuning runs on tiny models, for tests: a dense model, its quantised twin, a text, a tuner with all it stands on.
namespace pvtune::testing {

inline constexpr std::int64_t vocabulary = 41;
inline constexpr std::int64_t length = 12;
inline constexpr const char* untied_config = R"({"model_type": "llama", "vocab_size": 41, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "tie_word_embeddings": false, "attention_bias": true, "hidden_act": "silu"})";
inline constexpr const char* tied_config = R"({"model_type": "llama", "vocab_size": 41, "hidden_size": 32,
    "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "tie_word_embeddings": true, "hidden_act": "silu"})";
inline constexpr Strategy all_strategies[] = {
    Strategy::continuous, Strategy::naive_linearized, Strategy::stochastic_rounding, Strategy::ste, Strategy::pv,
    Strategy::pv_ste};

using MakeBackend = std::function<std::unique_ptr<Backend>()>;

inline MakeBackend cpu_backend(int threads) {
    return [threads] { return make_cpu_backend({.threads = threads}); };
}

struct SessionOptions {
    DType precision = DType::f32;
    Activations activations = Activations::keep;
    bool offload = false;  ///< block inputs and the teacher
    MakeBackend backend = cpu_backend(1);
    std::string checkpoint = {};
    std::string source = "the files";
    std::function<void(Model& student, Model& teacher)> spoil = [](Model&, Model&) {};
};

/// A Tuner with all that it stands on.
class Session {
public:
    Session(const TemporaryFolder& folder, const TuneSettings& settings, const SessionOptions& options = {})
        : backend_(options.backend()),
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
    Backend& backend() { return *backend_; }
    const StoreReader& store() const { return store_; }

private:
    Tuner make_tuner(const TemporaryFolder& folder, const SessionOptions& options) {
        std::unique_ptr<StoreReader> checkpoint;
        if (!options.checkpoint.empty()) checkpoint = std::make_unique<StoreReader>(options.checkpoint, "checkpoint");
        Model student =
            load_model(*backend_, store_, options.precision, settings_.length, Residency::one_block, checkpoint.get());
        Model teacher = load_model(*backend_, StoreReader(folder.file("model.h5"), "weights"), options.precision,
                                   settings_.length, options.offload ? Residency::streamed : Residency::all);
        options.spoil(student, teacher);
        return {*backend_, settings_, std::move(student), std::move(teacher), {options.activations, options.offload}};
    }

    std::unique_ptr<Backend> backend_;
    StoreReader store_;
    TuneSettings settings_;
    Tuner tuner_;
};

inline std::vector<std::uint32_t> text_of(std::int64_t windows) {
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
        const std::string key = std::to_string(std::hash<std::string>{}(config)) + spec.representation +
                                std::to_string(spec.codebooks) + "x" + std::to_string(spec.code_bits) + "g" +
                                std::to_string(spec.group);
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

/// The codes of every quantised matrix in a file.
inline std::map<std::string, std::vector<std::uint8_t>> codes_of(const std::string& path) {
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

/// Groups whose codes differ, a matrix.
inline std::map<std::string, std::int64_t> changed_groups(
    const std::map<std::string, std::vector<std::uint8_t>>& before,
    const std::map<std::string, std::vector<std::uint8_t>>& after, std::size_t books) {
    std::map<std::string, std::int64_t> changed;
    for (const auto& [name, codes] : before) {
        for (std::size_t i = 0; i < codes.size(); i += books) {
            changed[name] += std::memcmp(codes.data() + i, after.at(name).data() + i, books) != 0 ? 1 : 0;
        }
    }
    return changed;
}

}  // namespace pvtune::testing
