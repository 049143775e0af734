// Which groups a V step searches and how many may change: the choices by chance and in turn, budgets shared by the
// model, rounding by chance, codes that return.
#include "host/tune/subspace.h"
#include "host/backend/cpu/quant_ops.h"
#include "tests/tensors.h"

#include <numeric>
#include <set>

namespace pvtune {
namespace {

using namespace testing;

OwnedTensor floats(std::initializer_list<double> values) {
    OwnedTensor tensor(DType::f32, {static_cast<std::int64_t>(values.size())});
    tensor.fill([next = values.begin()]() mutable { return *next++; });
    return tensor;
}

OwnedTensor counting(std::int64_t count) {
    OwnedTensor tensor(DType::u32, {count});
    tensor.fill([next = 0]() mutable { return next++; });
    return tensor;
}

class Choice : public ::testing::Test {
protected:
    std::vector<std::uint32_t> choose(const OwnedTensor& scores, std::int64_t count, std::int64_t update) {
        OwnedTensor keys(DType::f32, {scores->elements()});
        OwnedTensor selected(DType::u32, {count});
        choose_groups(backend_->ops(), selected, keys, scores, settings_, update, seed_of(settings_.seed, update, 0));
        const auto* chosen = selected->as<std::uint32_t>();
        std::vector<std::uint32_t> groups(chosen, chosen + count);
        EXPECT_EQ(std::set<std::uint32_t>(groups.begin(), groups.end()).size(), groups.size()) << "a group twice";
        return groups;
    }

    std::unique_ptr<Backend> backend_ = make_cpu_backend({.threads = 1});
    TuneSettings settings_;
};

TEST_F(Choice, SampleDrawsByTheScores) {
    settings_.subspace = Subspace::sample;
    const OwnedTensor scores = floats({1, 2, 0, 4, 9});
    for (const double temperature : {1.0, 2.0}) {
        settings_.subspace_temperature = static_cast<float>(temperature);
        Values weights;
        double total = 0;
        for (const double score : {1.0, 2.0, 0.0, 4.0, 9.0}) weights.push_back(std::pow(score, 1 / temperature));
        for (const double weight : weights) total += weight;
        constexpr int draws = 20000;
        Values first(5), either(5);
        for (int update = 1; update <= draws; ++update) {
            first[choose(scores, 1, update)[0]] += 1.0 / draws;
            for (const std::uint32_t j : choose(scores, 2, update)) either[j] += 1.0 / draws;
        }
        for (std::size_t j = 0; j < 5; ++j) {
            const double p = weights[j] / total;
            double in_two = p;
            for (std::size_t i = 0; i < 5; ++i) {
                if (i != j) in_two += weights[i] / total * weights[j] / (total - weights[i]);
            }
            // Five standard deviations of a frequency.
            EXPECT_NEAR(first[j], p, 5 * std::sqrt(p * (1 - p) / draws));
            EXPECT_NEAR(either[j], in_two, 5 * std::sqrt(in_two * (1 - in_two) / draws));
        }
    }
}

TEST_F(Choice, RandomDrawsAllAlikeAndRepeats) {
    settings_.subspace = Subspace::random;
    const OwnedTensor scores = floats({0, 1e-30, 1, 1e30, 5, 6, 7, 8});
    std::vector<int> drawn(8);
    constexpr int draws = 8000;
    for (int update = 1; update <= draws; ++update) {
        for (const std::uint32_t j : choose(scores, 3, update)) ++drawn[j];
    }
    for (const int count : drawn) EXPECT_NEAR(count, draws * 3 / 8, 5 * std::sqrt(draws * 15.0 / 64));
    EXPECT_EQ(choose(scores, 3, 77), choose(scores, 3, 77));
    std::set<std::vector<std::uint32_t>> kinds;
    for (settings_.seed = 0; settings_.seed < 20; ++settings_.seed) kinds.insert(choose(scores, 3, 1));
    EXPECT_GT(kinds.size(), 5U);
}

TEST_F(Choice, BlocksCoverEveryGroupInTurn) {
    settings_.subspace = Subspace::block;
    for (const std::int64_t groups : {1, 10, 23}) {
        const OwnedTensor scores(DType::f32, {groups});
        for (const std::int64_t count : {std::int64_t{1}, groups / 3, groups}) {
            if (count == 0) continue;
            std::vector<std::int64_t> visits(static_cast<std::size_t>(groups));
            std::int64_t next = 0;
            for (std::int64_t update = 1; update <= 4 * groups; ++update) {
                for (const std::uint32_t j : choose(scores, count, update)) {
                    EXPECT_EQ(j, next);
                    next = (next + 1) % groups;
                    ++visits[j];
                }
            }
            for (const std::int64_t visit : visits) EXPECT_EQ(visit, 4 * count);
        }
    }
}

TEST(ShareBudget, IsTheModelsTopkAndKeepsTheTotal) {
    const std::vector<std::int64_t> groups = {1000, 200, 50, 3};
    std::vector<std::uint32_t> histograms(4 * score_bins);
    std::vector<std::pair<float, std::size_t>> all;
    std::mt19937 engine(1);
    std::lognormal_distribution<float> draw;
    for (std::size_t i = 0; i < groups.size(); ++i) {
        OwnedTensor scores(DType::f32, {groups[i]});
        // The second matrix has the largest scores, the last next to none.
        scores.fill([&] { return static_cast<double>(draw(engine)) * (i == 1 ? 8 : i == 3 ? 1e-6 : 1); });
        for (std::int64_t j = 0; j < groups[i]; ++j) all.emplace_back(scores->as<float>()[j], i);
        const Tensor bins(histograms.data() + i * score_bins, DType::u32, {score_bins});
        cpu::score_histogram(bins, scores);
        EXPECT_EQ(std::accumulate(bins.as<std::uint32_t>(), bins.as<std::uint32_t>() + score_bins, 0), groups[i]);
    }
    std::sort(all.rbegin(), all.rend());
    for (const std::int64_t total : {4, 5, 13, 130, 700, 1253}) {
        const auto budgets = share_budget(histograms, groups, total);
        EXPECT_EQ(std::accumulate(budgets.begin(), budgets.end(), std::int64_t{0}), total);
        std::vector<std::int64_t> expected(4);
        for (std::int64_t n = 0; n < total; ++n) ++expected[all[static_cast<std::size_t>(n)].second];
        for (std::size_t i = 0; i < 4; ++i) {
            EXPECT_GE(budgets[i], 1);
            EXPECT_LE(budgets[i], groups[i]);
            // Within the last bin, a quarter of an octave, groups are shared out alike.
            EXPECT_NEAR(static_cast<double>(budgets[i]), static_cast<double>(expected[i]),
                        4 + 0.05 * static_cast<double>(total));
        }
    }
}

TEST(ShareBudget, StrangeScores) {
    OwnedTensor scores = floats({NAN, -1, 0, -0.0, INFINITY, 3});
    OwnedTensor histogram(DType::u32, {score_bins});
    cpu::score_histogram(histogram, scores);
    const auto* bins = histogram->as<std::uint32_t>();
    EXPECT_EQ(std::accumulate(bins, bins + score_bins, 0), 4);
    EXPECT_EQ(bins[0], 2U);
    // No matrix has a score: the budget goes out all the same.
    const std::vector<std::uint32_t> none(2 * score_bins);
    const auto budgets = share_budget(none, std::vector<std::int64_t>{10, 5}, 6);
    EXPECT_EQ(budgets[0] + budgets[1], 6);
}

TEST(SearchedGroups, AreAtMostAll) {
    TuneSettings settings;
    EXPECT_EQ(searched_groups(100, 7, settings), 7);
    settings.candidates = 3;
    EXPECT_EQ(searched_groups(100, 7, settings), 21);
    settings.candidates = std::int64_t{1} << 40;
    EXPECT_EQ(searched_groups(100, 7, settings), 100);
}

TEST(KeepByChance, HasTheOddsOfTheDistances) {
    constexpr std::int64_t count = 40000;
    const OwnedTensor groups = counting(count);
    for (const auto& [d1, d2] : {std::pair{1.0, 1.0}, std::pair{1.0, 3.0}, std::pair{0.0, 2.0}}) {
        for (const double temperature : {0.5, 1.0, 4.0}) {
            OwnedTensor nearest(DType::f32, {count});
            OwnedTensor second(DType::f32, {count});
            nearest.fill([d = d1] { return d * d; });
            second.fill([d = d2] { return d * d; });
            OwnedTensor keep(DType::u8, {count});
            cpu::keep_by_chance(keep, nearest, second, groups, static_cast<float>(temperature), 5);
            const double p = d1 == 0 ? 0 : 1 / (1 + std::pow(d2 / d1, 1 / temperature));
            EXPECT_NEAR(cpu::count_flags(keep) / static_cast<double>(count), p, 5 * std::sqrt(p * (1 - p) / count));
            OwnedTensor other(DType::u8, {count});
            cpu::keep_by_chance(other, nearest, second, groups, static_cast<float>(temperature), 6);
            EXPECT_EQ(same_bits(other, keep), p == 0) << "another seed";
        }
    }
    // Nothing to choose from: both at an infinite or no distance.
    OwnedTensor keep(DType::u8, {2});
    cpu::keep_by_chance(keep, floats({INFINITY, 0}), floats({INFINITY, 0}), counting(2), 1, 5);
    EXPECT_EQ(cpu::count_flags(keep), 0U);
}

TEST(BoundChanges, KeepsTheFirstOfThoseThatChanged) {
    const OwnedTensor scores = floats({5, 9, 5, 1, 7, 8});
    OwnedTensor groups(DType::u32, {5});
    groups.fill([next = 0]() mutable { return next++; });
    groups.set(4, 5);  // scores 5 9 5 1 8
    const auto kept = [&](std::int64_t most) {
        OwnedTensor keep(DType::u8, {5});
        for (const int i : {0, 2, 3, 4}) keep->as<std::uint8_t>()[i] = 1;  // the best did not change
        cpu::bound_changes(keep, {}, scores, groups, {}, 0, most);
        const auto* flags = keep->as<std::uint8_t>();
        return std::vector<int>(flags, flags + 5);
    };
    EXPECT_EQ(kept(0), (std::vector<int>{0, 0, 0, 0, 0}));
    EXPECT_EQ(kept(1), (std::vector<int>{0, 0, 0, 0, 1}));
    EXPECT_EQ(kept(2), (std::vector<int>{1, 0, 0, 0, 1}));
    EXPECT_EQ(kept(3), (std::vector<int>{1, 0, 1, 0, 1}));
    EXPECT_EQ(kept(9), (std::vector<int>{1, 0, 1, 1, 1}));
}

TEST(NoteReturns, CountsCodesThatGoBack) {
    const OwnedTensor everyone = counting(3);
    OwnedTensor history(DType::u16, {3, 2});
    OwnedTensor codes[2] = {OwnedTensor(DType::u16, {3, 2}), OwnedTensor(DType::u16, {3, 2})};
    const auto step = [&](std::vector<std::uint16_t> before, std::vector<std::uint16_t> now) {
        std::copy(before.begin(), before.end(), codes[0]->as<std::uint16_t>());
        std::copy(now.begin(), now.end(), codes[1]->as<std::uint16_t>());
        OwnedTensor returned(DType::u8, {3});
        cpu::note_returns(returned, history, codes[1], codes[0], everyone);
        OwnedTensor differ(DType::u8, {3});
        cpu::rows_differ(differ, codes[0], codes[1]);
        for (int i = 0; i < 3; ++i) {
            const auto at = static_cast<std::size_t>(2 * i);
            EXPECT_EQ(differ->as<std::uint8_t>()[i] != 0, before[at] != now[at] || before[at + 1] != now[at + 1]);
        }
        return std::vector<int>(returned->as<std::uint8_t>(), returned->as<std::uint8_t>() + 3);
    };
    // The history starts on the codes, all 0 here.
    EXPECT_EQ(step({0, 0, 0, 0, 0, 0}, {1, 0, 0, 300, 0, 0}), (std::vector<int>{0, 0, 0}));
    EXPECT_EQ(step({1, 0, 0, 300, 0, 0}, {1, 0, 0, 0, 7, 0}), (std::vector<int>{0, 1, 0}));
    EXPECT_EQ(step({1, 0, 0, 0, 7, 0}, {0, 0, 0, 300, 8, 0}), (std::vector<int>{1, 1, 0}));
    EXPECT_EQ(step({0, 0, 0, 300, 8, 0}, {2, 0, 5, 5, 7, 0}), (std::vector<int>{0, 0, 1}));
}

TEST(Sum, AndScaledSum) {
    const OwnedTensor values = random_tensor(DType::f32, {40001}, 3);
    double expected = 0;
    for (const double value : values_of(values)) expected += value;
    EXPECT_NEAR(cpu::sum(values), expected, 1e-9);
    EXPECT_EQ(cpu::sum(OwnedTensor(DType::f32, {0})), 0);
}

}  // namespace
}  // namespace pvtune
