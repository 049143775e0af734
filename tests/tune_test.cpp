// PV-Tuning as a whole, on tiny models: the loss against plain means, codes and parameters that move or stay, micro-
// batches, repeated runs bit for bit, and what must be refused.
#include "host/backend/cpu/bf16_blocks.h"
#include "host/tune/subspace.h"
#include "tests/tuning.h"

#include <limits>

namespace pvtune {
namespace {

using namespace pvtune::testing;

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

TEST_F(Tuning, CalibrationOnlyMeasuresAndMovesNothing) {
    Session session(folder_, quick(Strategy::calibration_only));
    Session other(folder_, quick(Strategy::continuous));
    const auto reports = session.run_to(3, text_of(4));
    const double first = other.run_to(1, text_of(4))[0].loss;
    for (const StepReport& report : reports) {
        EXPECT_NEAR(report.loss, first, 1e-6 * first);  // every step takes all of the text, in another order
        EXPECT_EQ(report.changed + report.selected + report.groups, 0);
    }
    save_model(session);
    const StoreReader before(folder_.file("q.h5"), "weights");
    const StoreReader after(folder_.file("tuned.h5"), "weights");
    EXPECT_EQ(codes_of(folder_.file("tuned.h5")), codes_of(folder_.file("q.h5")));
    for (const TensorSpec& spec : tensor_specs(read_config(before))) {
        const std::string path = "/tensors/" + spec.name;
        if (spec.block_matrix) {
            EXPECT_EQ(codebooks_in(before, path), codebooks_in(after, path)) << spec.name;
        } else {
            EXPECT_EQ(floats_in(before, path), floats_in(after, path)) << spec.name;
        }
    }
    Session resumed(folder_, quick(Strategy::calibration_only),
                    {.checkpoint = (state_hash(session), folder_.file("state"))});
    EXPECT_EQ(resumed.tuner().steps_done(), 3);
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
        for (const Strategy strategy : {Strategy::naive_linearized, Strategy::ste, Strategy::pv, Strategy::pv_ste}) {
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

TEST_F(Tuning, OffloadingGivesTheSameBits) {
    for (const Activations activations : {Activations::keep, Activations::recompute}) {
        TuneSettings settings = quick(Strategy::pv_ste);
        settings.micro_batch = 2;  // two micro-batches
        std::vector<std::string> hashes;
        for (const bool offload : {false, true}) {
            Session session(folder_, settings, {.activations = activations, .offload = offload});
            session.run_to(3, text_of(10));
            hashes.push_back(state_hash(session));
        }
        EXPECT_EQ(hashes[0], hashes[1]);
    }
}

TEST_F(Tuning, RunsRepeat) {
    for (const DType precision : {DType::f32, DType::bf16}) {
        for (const Strategy strategy : all_strategies) {
            std::vector<std::string> hashes;
            for (int i = 0; i < 2; ++i) {
                Session session(folder_, quick(strategy), {.precision = precision, .backend = cpu_backend(2)});
                session.run_to(3, text_of(10));
                hashes.push_back(state_hash(session));
            }
            EXPECT_EQ(hashes[0], hashes[1]) << name_of(strategy);
        }
    }
}

TEST_F(Tuning, SameBitsForAnyNumberOfThreads) {
    if (cpu::block_unit() == cpu::BlockUnit::none) GTEST_SKIP() << "a library multiplies";
    for (const Strategy strategy : all_strategies) {
        std::vector<std::string> hashes;
        for (const int threads : {1, 2, 3}) {
            Session session(folder_, quick(strategy), {.precision = DType::bf16, .backend = cpu_backend(threads)});
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
        Session session(folder_, quick(Strategy::continuous), {.backend = cpu_backend(threads)});
        losses.push_back(session.run_to(4, text_of(4))[3].loss);
    }
    EXPECT_NEAR(losses[1], losses[0], 1e-3 * losses[0]);
}

void set_nan(Tensor tensor) { tensor.as<float>()[3] = std::numeric_limits<float>::quiet_NaN(); }

TEST_F(Tuning, ANanInAWeightStopsTheRunAndIsNamed) {
    const auto stops = [&](const std::function<void(Model&, Model&)>& spoil, const std::string& name,
                           bool offload = false) {
        Session session(folder_, quick(Strategy::pv_ste), {.offload = offload, .spoil = spoil});
        EXPECT_ERROR(session.run_to(2, text_of(4)), "step 1", name);
    };
    stops([](Model&, Model& teacher) { set_nan(teacher.blocks[1].matrices[gate].weight); },
          "the teacher's model.layers.1.mlp.gate_proj.weight");
    // Streamed, blocks 0 and 2 have one place on the device in turn.
    for (const int layer : {0, 2}) {
        stops([=](Model&, Model& teacher) { set_nan(teacher.blocks[layer].matrices[query].host_weight); },
              "the teacher's model.layers." + std::to_string(layer) + ".self_attn.q_proj.weight", true);
    }
    stops([](Model&, Model& teacher) { set_nan(teacher.final_norm); }, "the teacher's model.norm.weight");
    stops([](Model& student, Model&) { set_nan(student.blocks[2].norms[attention_norm]); },
          "model.layers.2.input_layernorm.weight");
    stops([](Model& student, Model&) { set_nan(student.blocks[0].matrices[key].quantized->parameters()[1].value); },
          "model.layers.0.self_attn.k_proj.weight.scales");
    stops([](Model& student, Model&) { set_nan(student.blocks[0].matrices[value].bias); },
          "model.layers.0.self_attn.v_proj.bias");
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
