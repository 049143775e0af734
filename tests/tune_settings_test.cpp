// Schedules, micro-batches and the order of the training sequences.
#include "host/tune/batches.h"
#include "host/tune/settings.h"
#include "tests/files.h"

#include <algorithm>

namespace pvtune {
namespace {

using namespace pvtune::testing;

TEST(RateFactor, RisesAndFalls) {
    TuneSettings settings;
    settings.steps = 11;
    EXPECT_EQ(rate_factor(settings, 0), 1);
    EXPECT_EQ(rate_factor(settings, 1000), 1);
    for (const Schedule schedule : {Schedule::linear, Schedule::cosine}) {
        settings = {};
        settings.steps = 11;
        settings.schedule = schedule;
        EXPECT_DOUBLE_EQ(rate_factor(settings, 0), 1);
        EXPECT_NEAR(rate_factor(settings, 5), 0.5, 1e-15);
        EXPECT_NEAR(rate_factor(settings, 10), 0, 1e-15);
        EXPECT_NEAR(rate_factor(settings, 50), 0, 1e-15);
        settings.final_rate = 0.2;
        EXPECT_NEAR(rate_factor(settings, 5), 0.6, 1e-15);
        EXPECT_NEAR(rate_factor(settings, 10), 0.2, 1e-15);
        settings.warmup = 4;
        EXPECT_DOUBLE_EQ(rate_factor(settings, 0), 0.25);
        EXPECT_DOUBLE_EQ(rate_factor(settings, 3), 1);
        EXPECT_DOUBLE_EQ(rate_factor(settings, 4), 1);
        EXPECT_NEAR(rate_factor(settings, 7), 0.6, 1e-15);
        EXPECT_NEAR(rate_factor(settings, 10), 0.2, 1e-15);
        settings.steps = 3;  // shorter than the warm-up
        EXPECT_DOUBLE_EQ(rate_factor(settings, 2), 0.75);
    }
    settings = {};
    settings.steps = 1;
    settings.schedule = Schedule::cosine;
    EXPECT_EQ(rate_factor(settings, 0), 1);
}

TEST(TuneSettingsTest, MicroBatchesDivideTheBatch) {
    TuneSettings settings;
    for (const std::int64_t batch : {1, 2, 7, 12, 128}) {
        settings.batch = batch;
        for (const std::int64_t micro : {0, 1, 2, 3, 5, 8, 1000}) {
            settings.micro_batch = micro;
            for (const std::int64_t tokens : {16, 1024, 4096, 100000}) {
                settings.length = tokens;
                const std::int64_t together = settings.sequences_together();
                EXPECT_GE(together, 1);
                EXPECT_EQ(batch % together, 0);
                if (micro > 0) {
                    EXPECT_LE(together, micro);
                }
                if (micro == 0) {
                    EXPECT_LE(together, std::max<std::int64_t>(1, 4096 / tokens));
                }
            }
        }
    }
    settings = {};
    EXPECT_EQ(settings.sequences_together(), 4);
}

TEST(TuneSettingsTest, Names) {
    for (int i = 0; i <= static_cast<int>(Strategy::pv_ste); ++i) {
        const auto strategy = static_cast<Strategy>(i);
        EXPECT_EQ(parse_strategy(name_of(strategy)), strategy);
    }
    for (int i = 0; i <= static_cast<int>(Subspace::eager); ++i) {
        const auto subspace = static_cast<Subspace>(i);
        EXPECT_EQ(parse_subspace(name_of(subspace)), subspace);
    }
    EXPECT_ERROR(parse_subspace("best"), "--subspace best", "layer-budget");
    EXPECT_ERROR(parse_strategy("newton"), "--strategy newton", "pv-ste");
    EXPECT_EQ(parse_code_moment("weight"), CodeMoment::weight);
    EXPECT_EQ(parse_code_moment("group"), CodeMoment::group);
    EXPECT_ERROR(parse_code_moment("row"), "--code-moment row", "group");
    EXPECT_ERROR(parse_schedule("square"), "--schedule square", "cosine");
}

TEST(TuneSettingsTest, RefusesWhatDoesNotGoTogether) {
    const auto refused = [](auto change, const std::string& flag, const std::string& remedy) {
        TuneSettings settings;
        settings.strategy = Strategy::pv;
        EXPECT_NO_THROW(check_settings(settings));
        change(settings);
        EXPECT_ERROR(check_settings(settings), flag, remedy);
    };
    for (const Strategy strategy : {Strategy::calibration_only, Strategy::continuous, Strategy::naive_linearized,
                                    Strategy::stochastic_rounding, Strategy::ste}) {
        refused([&](TuneSettings& s) { s.strategy = strategy, s.subspace = Subspace::block; }, "--subspace block",
                name_of(strategy));
        if (strategy != Strategy::ste) {
            refused([&](TuneSettings& s) { s.strategy = strategy, s.narrow_buffer = true; }, "--code-buffer", "pv-ste");
        }
        refused([&](TuneSettings& s) { s.strategy = strategy, s.candidates = 2; }, "--candidates 2", "use pv");
    }
    refused([](TuneSettings& s) { s.strategy = Strategy::pv_ste, s.subspace = Subspace::eager; }, "eager", "use pv");
    refused([](TuneSettings& s) { s.subspace = Subspace::eager, s.candidates = 2; }, "eager", "--candidates");
    refused([](TuneSettings& s) { s.subspace = Subspace::eager, s.force_codes = true; }, "eager", "--force-codes");
    refused([](TuneSettings& s) { s.subspace = Subspace::eager, s.code_moment = CodeMoment::group; }, "eager",
            "--code-moment");
    refused([](TuneSettings& s) { s.narrow_buffer = true; }, "--code-buffer bf16", "pv-ste");
    refused([](TuneSettings& s) { s.strategy = Strategy::pv_ste, s.force_codes = true; }, "--force-codes", "pv");
}

/// The window numbers of an epoch, read off the tokens, which count up.
std::vector<std::uint32_t> epoch_of(Batches& batches, std::int64_t epoch) {
    std::vector<std::uint32_t> windows;
    for (std::int64_t i = 0; i < batches.windows(); ++i) {
        const auto sequence = batches.sequence(epoch * batches.windows() + i);
        EXPECT_EQ(sequence.size(), 5U);
        EXPECT_EQ(sequence[0] % 5, 0U);
        EXPECT_EQ(sequence[4], sequence[0] + 4);
        windows.push_back(sequence[0] / 5);
    }
    return windows;
}

TEST(BatchesTest, EveryWindowOnceAnEpoch) {
    std::vector<std::uint32_t> tokens(5 * 20 + 3);
    std::vector<std::uint32_t> sorted(20);
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint32_t>(i);
    for (std::size_t i = 0; i < sorted.size(); ++i) sorted[i] = static_cast<std::uint32_t>(i);
    Batches sequential(tokens, 5, 1, false);
    EXPECT_EQ(sequential.windows(), 20);
    EXPECT_EQ(epoch_of(sequential, 0), sorted);
    EXPECT_EQ(epoch_of(sequential, 3), sorted);
    Batches shuffled(tokens, 5, 1, true);
    std::vector<std::vector<std::uint32_t>> orders;
    for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
        orders.push_back(epoch_of(shuffled, epoch));
        EXPECT_NE(orders.back(), sorted);
        std::vector<std::uint32_t> windows = orders.back();
        std::sort(windows.begin(), windows.end());
        EXPECT_EQ(windows, sorted);
    }
    EXPECT_NE(orders[0], orders[1]);
    // What was asked for before does not matter, the seed does.
    Batches again(tokens, 5, 1, true);
    EXPECT_EQ(epoch_of(again, 2), orders[2]);
    EXPECT_EQ(epoch_of(again, 0), orders[0]);
    Batches other(tokens, 5, 2, true);
    EXPECT_NE(epoch_of(other, 0), orders[0]);
    EXPECT_NE(epoch_of(other, 0), orders[1]);
}

TEST(BatchesTest, NeighbouringSeedsAreNoShiftedCopies) {
    std::vector<std::uint32_t> tokens(5 * 200);
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint32_t>(i);
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
        Batches one(tokens, 5, seed, true);
        Batches next(tokens, 5, seed + 1, true);
        const auto a = epoch_of(one, 0);
        const auto b = epoch_of(next, 0);
        const auto near = [&](std::size_t i, std::size_t j) { return a[i] <= b[j] + 1 && b[j] <= a[i] + 1; };
        for (const std::size_t shift : {0, 1, 2}) {
            int ahead = 0;
            int behind = 0;
            for (std::size_t i = 0; i + shift < a.size(); ++i) {
                ahead += near(i + shift, i) ? 1 : 0;
                behind += near(i, i + shift) ? 1 : 0;
            }
            EXPECT_LT(std::max(ahead, behind), 20) << seed << " " << shift;  // by chance 3
        }
    }
}

TEST(BatchesTest, RefusesTooFewTokens) {
    const std::vector<std::uint32_t> tokens(4);
    EXPECT_ERROR(Batches(tokens, 5, 0, true), "--tokens", "--ctx");
    EXPECT_EQ(Batches(tokens, 4, 0, true).windows(), 1);
}

}  // namespace
}  // namespace pvtune
