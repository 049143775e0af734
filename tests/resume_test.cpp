// Tuning runs that stop and go on: the bits of a run that was not stopped, and checkpoints that must be refused.
#include "tests/tuning.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

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

TEST_F(Resuming, EverySubspaceGoesOnWithTheSameBits) {
    for (int i = 0; i <= static_cast<int>(Subspace::eager); ++i) {
        TuneSettings settings = settings_of(Strategy::pv);
        settings.subspace = static_cast<Subspace>(i);
        settings.candidates = settings.subspace == Subspace::eager ? 1 : 3;
        settings.force_codes = settings.subspace == Subspace::random;
        settings.v_every = 2;  // the checkpoint lies between two V steps
        settings.measure_v = true;
        Session straight(folder_, settings);
        const auto expected = straight.run_to(6, text_of(10));
        Session resumed(folder_, settings, {.checkpoint = checkpoint(settings)});
        const auto got = resumed.run_to(6, text_of(10));
        EXPECT_EQ(state_hash(straight), state_hash(resumed)) << name_of(settings.subspace);
        EXPECT_EQ(got.back().measured_change, expected.back().measured_change);
        EXPECT_EQ(got.back().returned, expected.back().returned);
        EXPECT_EQ(got.back().predicted_change, expected.back().predicted_change);
    }
}

TEST_F(Resuming, NarrowStatesToo) {
    for (const QuantizationSpec& spec : {QuantizationSpec{"aqlm", 2, 4, 4}, QuantizationSpec{"scalar", 1, 3, 0}}) {
        write_models(tied_config, spec);
        TuneSettings settings = settings_of(Strategy::pv_ste);
        settings.code_moment = CodeMoment::group;
        settings.narrow_buffer = true;
        Session straight(folder_, settings);
        straight.run_to(6, text_of(10));
        Session resumed(folder_, settings, {.checkpoint = checkpoint(settings)});
        resumed.run_to(6, text_of(10));
        EXPECT_EQ(state_hash(straight), state_hash(resumed));
        settings.narrow_buffer = false;
        Session wide(folder_, settings);
        wide.run_to(6, text_of(10));
        EXPECT_NE(state_hash(straight), state_hash(wide));
    }
}

TEST_F(Resuming, QuipToo) {
    write_models(untied_config, {"quip", 1, 3, 8});
    for (const Strategy strategy : all_strategies) {
        const TuneSettings settings = settings_of(strategy);
        Session straight(folder_, settings);
        straight.run_to(6, text_of(10));
        Session resumed(folder_, settings, {.checkpoint = checkpoint(settings)});
        resumed.run_to(6, text_of(10));
        EXPECT_EQ(save_model(straight), save_model(resumed)) << name_of(strategy);
        EXPECT_EQ(state_hash(straight), state_hash(resumed)) << name_of(strategy);
    }
}

TEST_F(Resuming, RefusesOtherSettingsAndSources) {
    const TuneSettings settings = settings_of(Strategy::pv_ste);
    const std::string path = checkpoint(settings);
    EXPECT_ERROR(Session(folder_, settings, {.checkpoint = path, .source = "other files"}), path, "another --model");
    const auto refused = [&](auto change) {
        TuneSettings other = settings;
        change(other);
        EXPECT_ERROR(Session(folder_, other, {.checkpoint = path}), path, "was written with ");
    };
    refused([](TuneSettings& other) { other.strategy = Strategy::pv; });
    refused([](TuneSettings& other) { other.seed = 4; });
    refused([](TuneSettings& other) { other.steps = 7; });  // the schedule ends elsewhere
    refused([](TuneSettings& other) { other.micro_batch = 1; });
    refused([](TuneSettings& other) { other.candidates = 2; });
    refused([](TuneSettings& other) { other.subspace = Subspace::block; });
    refused([](TuneSettings& other) { other.v_every = 2; });
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
         {"/v/" + matrix + "/straight_through", "/v/" + matrix + "/second_moment", "/tensors/" + matrix + "/codes",
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

}  // namespace
}  // namespace pvtune
