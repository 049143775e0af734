// Layer-by-layer quantisation of tiny models: what tuning a block gains, hidden states in files, runs that stop and go
// on.
#include "host/calibrate/calibrate.h"
#include "tests/tuning.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

namespace pvtune {
namespace {

using namespace pvtune::testing;

struct Stop {};

class Calibrating : public Tuning {
protected:
    struct Run {
        std::string hash;
        std::vector<CalibratedBlock> blocks;
        std::int64_t tuning_bytes = 0;
    };

    static std::int64_t tuning_bytes(const Arena& arena) {
        for (const Allocation& allocation : arena.table()) {
            if (allocation.name == "block tuning") return allocation.bytes;
        }
        return 0;
    }

    static CalibrateSettings settings_of(DType precision = DType::f32) {
        CalibrateSettings settings;
        settings.sequences = 10;  // two parts of four and a rest
        settings.length = length;
        settings.precision = precision;
        settings.block.epochs = 3;
        settings.block.rate = 3e-3F;
        return settings;
    }

    Run calibrate(const CalibrateSettings& settings, const QuantizationSpec& spec = {"aqlm", 2, 4, 4},
                  bool resume = false, std::int64_t blocks = 100) const {
        const StoreReader model(folder_.file("model.h5"), "weights");
        const std::vector<std::uint32_t> tokens = text_of(settings.sequences);
        CalibrateJob job;
        job.model = &model;
        job.spec = spec;
        job.settings = settings;
        job.tokens = tokens;
        job.source = "a test of " + std::to_string(settings.block.epochs);
        job.out = folder_.file("calibrated.h5");
        job.command = "a test";
        job.resume = resume;
        const auto backend = make_cpu_backend({.threads = 1});
        Run run;
        run.hash = calibrate_model(*backend, job, [&](const CalibratedBlock& block) {
                       run.blocks.push_back(block);
                       if (static_cast<std::int64_t>(run.blocks.size()) == blocks) throw Stop();
                   }).content_hash;
        run.tuning_bytes = tuning_bytes(backend->arena());
        return run;
    }
};

TEST_F(Calibrating, TuningABlockLowersItsErrorOnHeldOutSequences) {
    for (const DType precision : {DType::f32, DType::bf16}) {
        for (const bool dense : {false, true}) {
            CalibrateSettings settings = settings_of(precision);
            settings.dense_targets = dense;
            settings.sequences = 64;  // too few tokens would only be learnt by heart
            settings.block.rate = 1e-3F;
            const Run run = calibrate(settings);
            ASSERT_EQ(run.blocks.size(), 3U);
            int epochs = 0;
            double before = 0;
            double after = 0;
            for (const CalibratedBlock& block : run.blocks) {
                EXPECT_GT(block.tuning.before, 0);
                EXPECT_LE(block.tuning.after, block.tuning.before);
                epochs += block.tuning.epochs;
                before += block.tuning.before;
                after += block.tuning.after;
                EXPECT_EQ(block.matrices.size(), matrices_per_block);
                for (const QuantizedMatrix& matrix : block.matrices) {
                    EXPECT_GT(matrix.report.relative_output_error(), 0);
                    EXPECT_LT(matrix.report.relative_output_error(), 1);
                }
            }
            EXPECT_GT(epochs, 0);
            EXPECT_LT(after, before);
            // A file like any quantised one.
            const StoreReader store(folder_.file("calibrated.h5"), "weights");
            const auto backend = make_cpu_backend({.threads = 1});
            EXPECT_TRUE(load_model(*backend, store, DType::f32, length, Residency::all).quantized());
            EXPECT_FALSE(std::filesystem::exists(folder_.file("calibrated.h5.calibration")));
        }
    }
}

TEST_F(Calibrating, UnquantisedTargetsAreMetExactlyByAnUnquantisedBlock) {
    // With a codeword for every group a block is its own target: what is left is the rounding to 16 bits.
    CalibrateSettings settings = settings_of();
    settings.block.epochs = 0;
    const Run run = calibrate(settings, {"vq", 1, 8, 4});
    for (const CalibratedBlock& block : run.blocks) EXPECT_LT(block.tuning.before, 1e-5);
}

TEST_F(Calibrating, ThePlanCountsTheTuningOfABlock) {
    for (const QuantizationSpec& spec : {QuantizationSpec{"aqlm", 2, 4, 4}, QuantizationSpec{"scalar", 1, 3, 0}}) {
        const Run run = calibrate(settings_of(), spec);
        const auto planning = make_cpu_backend({.planning = true});
        const StoreReader model(folder_.file("model.h5"), "weights");
        plan_calibration(*planning, read_config(model), spec, settings_of());
        EXPECT_GT(run.tuning_bytes, 0);
        EXPECT_EQ(tuning_bytes(planning->arena()), run.tuning_bytes) << spec.representation;
    }
}

TEST_F(Calibrating, HiddenStatesInFilesGiveTheSameBits) {
    for (const bool dense : {false, true}) {
        CalibrateSettings settings = settings_of(DType::bf16);
        settings.dense_targets = dense;
        const std::string in_memory = calibrate(settings).hash;
        settings.activation_memory = 0;
        EXPECT_EQ(calibrate(settings).hash, in_memory);
    }
}

TEST_F(Calibrating, GoesOnBehindTheLastFinishedBlockWithTheSameBits) {
    write_models(tied_config, {"aqlm", 2, 4, 4});
    for (const char* config : {tied_config, untied_config}) {
        write_models(config, {"aqlm", 2, 4, 4});
        const CalibrateSettings settings = settings_of();
        const Run whole = calibrate(settings);
        for (std::int64_t blocks = 1; blocks < static_cast<std::int64_t>(whole.blocks.size()); ++blocks) {
            EXPECT_THROW(calibrate(settings, {"aqlm", 2, 4, 4}, false, blocks), Stop);
            const Run resumed = calibrate(settings, {"aqlm", 2, 4, 4}, true);
            EXPECT_EQ(resumed.hash, whole.hash) << blocks;
            for (std::size_t i = 0; i < whole.blocks.size(); ++i) {
                EXPECT_EQ(resumed.blocks[i].resumed, static_cast<std::int64_t>(i) < blocks);
                for (std::size_t m = 0; m < matrices_per_block; ++m) {
                    EXPECT_EQ(resumed.blocks[i].matrices[m].report.output_error,
                              whole.blocks[i].matrices[m].report.output_error);
                }
            }
        }
    }
}

TEST_F(Calibrating, EveryRepresentationTunesItsBlocksAndGoesOnWithTheSameBits) {
    const QuantizationSpec specs[] = {{"vq", 1, 4, 4}, {"scalar", 1, 3, 0}, {"quip", 1, 2, 8}, {"quip", 1, 3, 8}};
    for (const QuantizationSpec& spec : specs) {
        SCOPED_TRACE(spec.representation);
        CalibrateSettings settings = settings_of();
        settings.block.epochs = 8;
        const Run whole = calibrate(settings, spec);
        int epochs = 0;
        std::int64_t bits = 0;
        for (const CalibratedBlock& block : whole.blocks) {
            EXPECT_LE(block.tuning.after, block.tuning.before);
            epochs += block.tuning.epochs;
            for (const QuantizedMatrix& matrix : block.matrices) bits += matrix.bits;
        }
        EXPECT_GT(epochs, 0);
        const StoreReader store(folder_.file("calibrated.h5"), "weights");
        const auto backend = make_cpu_backend({.threads = 1});
        std::int64_t stored_bits = 0;
        const Model model = load_model(*backend, store, DType::f32, length, Residency::all);
        for (const Block& block : model.blocks) {
            for (const Matrix& matrix : block.matrices) stored_bits += matrix.quantized->bits();
        }
        EXPECT_EQ(bits, stored_bits);
        EXPECT_THROW(calibrate(settings, spec, false, 1), Stop);
        const Run resumed = calibrate(settings, spec, true);
        EXPECT_EQ(resumed.hash, whole.hash);
        for (std::size_t i = 0; i < whole.blocks.size(); ++i) {
            EXPECT_EQ(resumed.blocks[i].resumed, i == 0);
            for (std::size_t m = 0; m < matrices_per_block; ++m) {
                EXPECT_EQ(resumed.blocks[i].matrices[m].bits, whole.blocks[i].matrices[m].bits);
            }
        }
    }
}

TEST_F(Calibrating, RefusesBlocksOfAnotherRunAndDamagedOnes) {
    CalibrateSettings settings = settings_of();
    EXPECT_THROW(calibrate(settings, {"aqlm", 2, 4, 4}, false, 2), Stop);
    settings.block.epochs = 1;
    const std::string file = folder_.file("calibrated.h5.calibration/block_0000.h5");
    EXPECT_ERROR(calibrate(settings, {"aqlm", 2, 4, 4}, true), file, "other inputs or flags");
    const std::string whole = read_file(file);
    write_file(file, whole.substr(0, whole.size() / 2));
    EXPECT_ERROR(calibrate(settings_of(), {"aqlm", 2, 4, 4}, true), file, "");
}

TEST_F(Calibrating, TheFolderOfBlocksIsOneRunsAndWhatElseIsInItStays) {
    const std::string folder = folder_.file("calibrated.h5.calibration");
    std::filesystem::create_directory(folder);
    const int other = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
    ASSERT_EQ(::flock(other, LOCK_EX), 0);
    EXPECT_ERROR(calibrate(settings_of()), folder, "another run is writing it");
    ::close(other);
    calibrate(settings_of());
    EXPECT_FALSE(std::filesystem::exists(folder));
    std::filesystem::create_directory(folder);
    write_file(folder + "/notes.txt", "mine");
    calibrate(settings_of());
    EXPECT_EQ(read_file(folder + "/notes.txt"), "mine");
    EXPECT_FALSE(std::filesystem::exists(folder + "/block_0000.h5"));
}

TEST_F(Calibrating, AFullDiskIsOneLine) {
    CalibrateSettings settings = settings_of();
    settings.activation_memory = 0;
    std::filesystem::create_directory(folder_.file("calibrated.h5.calibration"));
    std::filesystem::create_directory(folder_.file("calibrated.h5.calibration/states.h5"));
    EXPECT_ERROR(calibrate(settings), "states.h5", "--activation-memory");
}

}  // namespace
}  // namespace pvtune
