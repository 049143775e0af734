// V steps in tuning runs: subspaces and their budgets, candidates, the ledger, narrow states, QuIP#'s code space.
#include "host/tune/subspace.h"
#include "tests/tuning.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

/// The codes as they are in the run.
std::map<std::string, std::vector<std::uint8_t>> codes_now(const TemporaryFolder& folder, Session& session) {
    const std::string path = folder.file("codes");
    session.tuner().save_checkpoint(path, "a test", "");
    return codes_of(path);
}

TEST_F(Tuning, EverySubspaceKeepsItsBudgetAndLowersTheLoss) {
    for (int i = 0; i <= static_cast<int>(Subspace::eager); ++i) {
        TuneSettings settings = quick(Strategy::pv);
        settings.subspace = static_cast<Subspace>(i);
        settings.subspace_rate = 0.1F;  // at more, batches of four make codes go back and forth
        SCOPED_TRACE(name_of(settings.subspace));
        Session session(folder_, settings);
        auto codes = codes_of(folder_.file("q.h5"));
        std::int64_t total = 0;
        for (const auto& [name, own] : codes) total += v_budget(static_cast<std::int64_t>(own.size() / 2), settings);
        std::int64_t changed_in_all = 0;
        double first = 0;
        for (std::int64_t step = 1; step <= 30; ++step) {
            const StepReport report = session.run_to(step, text_of(4)).at(0);
            if (step == 1) first = report.loss;
            if (step == 30) {
                EXPECT_LT(report.loss, 0.6 * first);
            }
            EXPECT_EQ(report.selected, total);
            EXPECT_EQ(report.searched, total);
            EXPECT_LE(report.changed, total);
            changed_in_all += report.changed;
            if (step > 4) continue;
            const auto after = codes_now(folder_, session);
            std::int64_t changed = 0;
            for (const auto& [name, count] : changed_groups(codes, after, 2)) changed += count;
            EXPECT_EQ(report.changed, changed);
            codes = after;
        }
        EXPECT_GT(changed_in_all, 0);
    }
}

TEST_F(Tuning, ForcedCodesUseTheWholeBudget) {
    TuneSettings settings = quick(Strategy::pv);
    settings.force_codes = true;
    settings.subspace_rate = 1e-3F;
    Session session(folder_, settings);
    const StepReport report = session.run_to(1, text_of(4))[0];
    EXPECT_EQ(report.changed, report.selected);
}

TEST_F(Tuning, CandidatesUseMoreOfTheBudget) {
    std::vector<std::int64_t> changed;
    for (const std::int64_t candidates : {1, 8}) {
        TuneSettings settings = quick(Strategy::pv);
        settings.candidates = candidates;
        Session session(folder_, settings);
        changed.push_back(0);
        for (const StepReport& report : session.run_to(4, text_of(4))) {
            EXPECT_LE(report.changed, report.selected);
            EXPECT_GT(report.searched, (candidates - 1) * report.selected / 2);
            changed.back() += report.changed;
        }
    }
    EXPECT_GT(changed[1], changed[0]);
}

TEST_F(Tuning, VEveryTakesTheMeanGradient) {
    // Twice the same batch with nothing else that moves: the mean gradient is the gradient.
    TuneSettings settings = quick(Strategy::pv);
    settings.rate = 0;
    settings.shuffle = false;
    Session once(folder_, settings);
    const StepReport expected = once.run_to(1, text_of(4))[0];
    settings.v_every = 2;
    Session every_second(folder_, settings);
    const auto reports = every_second.run_to(4, text_of(4));
    for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(reports[i].v_step, i % 2 == 1);
        EXPECT_EQ(reports[i].changed > 0, i % 2 == 1);
    }
    EXPECT_EQ(reports[1].loss, reports[0].loss);
    EXPECT_EQ(reports[1].predicted_change, expected.predicted_change);
    EXPECT_EQ(reports[1].changed, expected.changed);
}

TEST_F(Tuning, TheLedgerMeasuresWhatVStepsSave) {
    for (const Strategy strategy : {Strategy::pv, Strategy::naive_linearized}) {
        TuneSettings settings = quick(strategy);
        settings.rate = 0;  // no P step: the next loss of the same text differs by the codes alone
        settings.shuffle = false;
        settings.measure_v = true;
        settings.subspace_rate = settings.code_rate = 0.3F;
        Session session(folder_, settings);
        const auto reports = session.run_to(6, text_of(4));
        std::int64_t returned = 0;
        for (std::size_t i = 0; i < reports.size(); ++i) {
            ASSERT_TRUE(reports[i].measured_change && reports[i].returned);
            EXPECT_LE(*reports[i].returned, reports[i].changed);
            EXPECT_LT(reports[i].predicted_change, 0);
            returned += *reports[i].returned;
            if (i + 1 == reports.size()) break;
            EXPECT_NEAR(*reports[i].measured_change, reports[i + 1].loss - reports[i].loss, 1e-6);
        }
        EXPECT_EQ(*reports[0].returned, 0);
        // Measuring changes nothing.
        settings.measure_v = false;
        Session plain(folder_, settings);
        EXPECT_EQ(plain.run_to(6, text_of(4)).back().loss, reports.back().loss);
        EXPECT_FALSE(plain.run_to(7, text_of(4))[0].measured_change);
    }
}

TEST_F(Tuning, NarrowStatesLearnAsWell) {
    TuneSettings settings = quick(Strategy::pv_ste);
    Session wide(folder_, settings);
    const auto expected = wide.run_to(30, text_of(4));
    settings.code_moment = CodeMoment::group;
    settings.narrow_buffer = true;
    Session narrow(folder_, settings);
    const auto got = narrow.run_to(30, text_of(4));
    EXPECT_EQ(got[0].loss, expected[0].loss);
    EXPECT_LT(got[29].loss, 0.7 * got[0].loss);
    EXPECT_LT(got[29].loss, 2 * expected[29].loss);  // the two part at once, and each build rounds in its own way
    EXPECT_NE(got[29].loss, expected[29].loss);
}

// What moves W in the P step, or rounds it for the products, is no update of the V step.
TEST_F(Tuning, WithoutBuffersNoCodeChangesAtARateOfZero) {
    for (const QuantizationSpec& spec : {QuantizationSpec{"aqlm", 2, 4, 4},
                                         {"vq", 1, 4, 4},
                                         {"scalar", 1, 4, 0},
                                         {"scalar", 1, 8, 0},
                                         {"quip", 1, 2, 8},
                                         {"quip", 1, 3, 8},
                                         {"quip", 1, 4, 8}}) {
        write_models(untied_config, spec);
        for (const Strategy strategy : {Strategy::naive_linearized, Strategy::stochastic_rounding, Strategy::pv}) {
            for (const DType precision : {DType::f32, DType::bf16}) {
                TuneSettings settings = quick(strategy);
                settings.tau = 1;
                settings.code_rate = settings.subspace_rate = 0;
                Session session(folder_, settings, {.precision = precision});
                std::int64_t changed = 0;
                for (const StepReport& report : session.run_to(3, text_of(4))) changed += report.changed;
                // The rounding of W itself gives the next of 256 codes odds of 1e-5.
                EXPECT_LE(changed, spec.code_bits == 8 ? 3 : 0)
                    << spec.representation << " " << spec.code_bits << ", " << name_of(strategy);
            }
        }
    }
}

TEST_F(Tuning, QuipLearnsInItsCodeSpace) {
    for (const int bits : {2, 4}) {
        write_models(untied_config, {"quip", 1, bits, 8});
        for (const Strategy strategy : all_strategies) {
            TuneSettings settings = quick(strategy);
            // The more bits, the nearer the next code.
            settings.code_rate = bits == 2 ? 0.1F : 0.02F;
            settings.subspace_rate = bits == 2 ? 0.3F : 0.03F;
            // Its steps do not add up: those that reach another code are too large for all weights at once.
            const bool naive = strategy == Strategy::naive_linearized;
            if (naive) settings.code_rate = bits == 2 ? 0.3F : 0.05F;
            if (strategy == Strategy::pv) settings.trust_ratio = 0.2;
            Session session(folder_, settings);
            const auto reports = session.run_to(10, text_of(4));
            if (!naive) {
                EXPECT_LT(reports[9].loss, reports[0].loss) << name_of(strategy);
            }
            std::int64_t changed = 0;
            for (const StepReport& report : reports) changed += report.changed;
            EXPECT_EQ(changed == 0, strategy == Strategy::continuous) << name_of(strategy);
        }
    }
}

TEST_F(Tuning, QuipHasEverySubspaceButEager) {
    write_models(untied_config, {"quip", 1, 2, 8});
    TuneSettings settings = quick(Strategy::pv);
    settings.subspace = Subspace::eager;
    EXPECT_ERROR(Session(folder_, settings), "--subspace eager", "quip");
    settings.subspace = Subspace::topk;
    settings.force_codes = true;
    settings.measure_v = true;
    Session session(folder_, settings);
    const StepReport report = session.run_to(1, text_of(4))[0];
    EXPECT_EQ(report.changed, report.selected);
    EXPECT_TRUE(report.measured_change.has_value());
}

}  // namespace
}  // namespace pvtune
