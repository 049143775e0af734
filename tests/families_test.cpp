// What is done with models, for every family: block by block and end to end, kept and recomputed, stopped and resumed.
#include "host/calibrate/calibrate.h"
#include "tests/family_configs.h"
#include "tests/tuning.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

class Families : public Tuning, public ::testing::WithParamInterface<FamilyConfig> {
protected:
    Families() { write_models(GetParam().json, {"aqlm", 2, 4, 4}); }

    std::vector<CalibratedBlock> calibrate(const CalibrateSettings& settings, const std::string& out) const {
        const StoreReader model(folder_.file("model.h5"), "weights");
        const std::vector<std::uint32_t> tokens = text_of(settings.sequences);
        CalibrateJob job;
        job.model = &model;
        job.spec = {"aqlm", 2, 4, 4};
        job.settings = settings;
        job.tokens = tokens;
        job.source = "a test";
        job.out = folder_.file(out);
        job.command = "a test";
        const auto backend = make_cpu_backend({.threads = 1});
        std::vector<CalibratedBlock> blocks;
        calibrate_model(*backend, job, [&](const CalibratedBlock& block) { blocks.push_back(block); });
        return blocks;
    }
};

TEST_P(Families, BlockTuningLowersTheErrorOfTheBlocks) {
    CalibrateSettings settings;
    settings.sequences = 64;
    settings.length = length;
    settings.block.epochs = 3;
    const auto blocks = calibrate(settings, "calibrated.h5");
    ASSERT_EQ(blocks.size(), 2U);
    int epochs = 0;
    for (const CalibratedBlock& block : blocks) {
        EXPECT_LE(block.tuning.after, block.tuning.before);
        epochs += block.tuning.epochs;
    }
    EXPECT_GT(epochs, 0);
    const StoreReader store(folder_.file("calibrated.h5"), "weights");
    EXPECT_TRUE(load_model(*make_cpu_backend({}), store, DType::f32, length, Residency::all).quantized());
}

TEST_P(Families, TuningLowersTheLossWithTheSameBitsKeptRecomputedAndResumed) {
    constexpr std::int64_t steps = 6;
    Session kept(folder_, quick(Strategy::pv_ste));
    const auto reports = kept.run_to(steps, text_of(20));
    EXPECT_LT(reports.back().loss, reports.front().loss);
    const std::string state = state_hash(kept);

    Session recomputed(folder_, quick(Strategy::pv_ste), {.activations = Activations::recompute});
    recomputed.run_to(steps, text_of(20));
    EXPECT_EQ(state_hash(recomputed), state);

    Session half(folder_, quick(Strategy::pv_ste));
    half.run_to(steps / 2, text_of(20));
    half.tuner().save_checkpoint(folder_.file("half"), "a test", "the files");
    Session resumed(folder_, quick(Strategy::pv_ste), {.checkpoint = folder_.file("half")});
    resumed.run_to(steps, text_of(20));
    EXPECT_EQ(state_hash(resumed), state);
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::ValuesIn(family_configs),
                         [](const auto& parameter) { return std::string(parameter.param.name); });

}  // namespace
}  // namespace pvtune
