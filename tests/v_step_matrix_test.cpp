// V steps of one small matrix against plain loops: moments, target, choice of groups with
// ties, the nearest codes by trying all, the trust ratio.
#include "host/quant/additive.h"
#include "host/tune/subspace.h"
#include "host/tune/v_step.h"
#include "tests/tensors.h"

#include <utility>

namespace pvtune {
namespace {

using namespace pvtune::testing;

class VStep : public ::testing::Test {
protected:
    static constexpr std::int64_t rows = 6, columns = 16, width = 4, books = 2, size = 16;
    static constexpr std::int64_t row_groups = columns / width, groups = rows * row_groups;

    VStep() : backend_(make_cpu_backend({.threads = 1})) {
        model_.blocks.resize(1);
        Matrix& matrix = model_.blocks[0].matrices[0];
        matrix.name = "a matrix";
        matrix.rows = rows;
        matrix.columns = columns;
        matrix.weight = backend_->arena().allocate("weights", DType::f32, {rows, columns});
        auto quantized = std::make_unique<AdditiveRepresentation>(*backend_, rows, columns,
                                                                  QuantizationSpec{"aqlm", books, 4, width});
        std::mt19937 engine(1);
        Uniform next(2);
        codes_.resize(static_cast<std::size_t>(groups * books));
        for (auto& code : codes_) code = static_cast<std::uint16_t>(engine() % size);
        // Rows 0 and 1 are twins, here and in their gradients: all their scores tie.
        std::copy_n(codes_.begin(), row_groups * books, codes_.begin() + row_groups * books);
        codebooks_.resize(static_cast<std::size_t>(books * size * width));
        for (float& value : codebooks_) value = static_cast<float>(next());
        scales_ = {1.5F, 1.5F, 0.5F, -0.75F, 1, 2};
        quantized->upload(*backend_, codes_, codebooks_, scales_);
        matrix.quantized = std::move(quantized);
        matrix.quantized->dequantize(backend_->ops(), matrix.weight);
    }

    Matrix& matrix() { return model_.blocks[0].matrices[0]; }

    OwnedTensor gradient(std::uint32_t seed) const {
        OwnedTensor tensor = random_tensor(DType::f32, {rows, columns}, seed, 1e-3);
        for (std::int64_t i = 0; i < columns; ++i) tensor->as<float>()[columns + i] = tensor->as<float>()[i];
        return tensor;
    }

    double weight_of(std::int64_t group, const std::uint16_t* codes, std::int64_t i) const {
        double sum = 0;
        for (std::int64_t m = 0; m < books; ++m) {
            sum += static_cast<double>(codebooks_[static_cast<std::size_t>((m * size + codes[m]) * width + i)]);
        }
        return sum * static_cast<double>(scales_[static_cast<std::size_t>(group / row_groups)]);
    }
    Values weights_of(const std::vector<std::uint16_t>& codes) const {
        Values weights;
        for (std::int64_t j = 0; j < groups; ++j) {
            for (std::int64_t i = 0; i < width; ++i) weights.push_back(weight_of(j, codes.data() + j * books, i));
        }
        return weights;
    }
    double squared_distance(const Values& a, const Values& b, std::int64_t group) const {
        double sum = 0;
        for (std::int64_t i = group * width; i < (group + 1) * width; ++i) {
            const double difference = a[static_cast<std::size_t>(i)] - b[static_cast<std::size_t>(i)];
            sum += difference * difference;
        }
        return sum;
    }
    /// All size^books combinations.
    void nearest(std::int64_t group, const Values& target, std::uint16_t* codes) const {
        double best = INFINITY;
        for (std::uint16_t a = 0; a < size; ++a) {
            for (std::uint16_t b = 0; b < size; ++b) {
                const std::uint16_t pair[] = {a, b};
                double distance = 0;
                for (std::int64_t i = 0; i < width; ++i) {
                    const double rest = target[static_cast<std::size_t>(group * width + i)] - weight_of(group, pair, i);
                    distance += rest * rest;
                }
                if (distance < best) {
                    best = distance;
                    std::copy_n(pair, books, codes);
                }
            }
        }
    }

    /// The V step in plain loops, on this fixture's state.
    struct Expected {
        Values second, buffer;
        std::vector<std::uint16_t> codes;
        std::int64_t selected = 0, changed = 0;
    };
    void expect_step(Expected& state, const Values& g, const TuneSettings& settings, std::int64_t update) const {
        const bool straight_through = settings.straight_through();
        const Values current = weights_of(state.codes);
        Values target = straight_through ? state.buffer : current;
        Values u(g.size());
        const auto beta2 = static_cast<double>(settings.code_beta2);
        for (std::size_t i = 0; i < g.size(); ++i) {
            state.second[i] = beta2 * state.second[i] + (1 - beta2) * g[i] * g[i];
            u[i] = g[i] / (std::sqrt(state.second[i] / (1 - std::pow(beta2, static_cast<double>(update)))) + 1e-8);
        }
        const double rate =
            static_cast<double>(settings.strategy == Strategy::pv ? settings.subspace_rate : settings.code_rate) *
            (settings.lamb ? std::sqrt(dot(target, target) / dot(u, u)) : 1);
        for (std::size_t i = 0; i < g.size(); ++i) target[i] -= rate * u[i];
        if (straight_through) state.buffer = target;

        // Twins tie but for roundings of the loops here: scores are compared as f32.
        std::vector<std::pair<float, std::int64_t>> order;
        for (std::int64_t j = 0; j < groups; ++j) {
            order.emplace_back(-static_cast<float>(squared_distance(target, current, j)), j);
        }
        std::sort(order.begin(), order.end());
        state.selected = settings.has_subspace() ? static_cast<std::int64_t>(std::ceil(settings.tau * groups)) : groups;
        state.changed = 0;
        double budget = settings.trust_ratio * settings.trust_ratio * dot(current, current);
        order.resize(static_cast<std::size_t>(std::min(groups, settings.candidates * state.selected)));
        std::vector<std::uint16_t> found = state.codes;
        for (auto& [key, j] : order) {
            nearest(j, target, found.data() + j * books);
            if (settings.force_codes && same_codes(found, state.codes, j)) nearest_change(j, target, found);
            if (settings.candidates == 1) continue;
            key = -static_cast<float>(squared_distance(target, current, j) -
                                      squared_distance(target, weights_of(found), j));
        }
        std::sort(order.begin(), order.end());
        for (const auto& [key, j] : order) {
            budget -= squared_distance(weights_of(found), current, j);
            if (settings.trust_ratio > 0 && budget < 0) break;
            if (same_codes(found, state.codes, j) || state.changed == state.selected) continue;
            state.changed += 1;
            std::copy_n(found.begin() + j * books, books, state.codes.begin() + j * books);
        }
    }

    static bool same_codes(const std::vector<std::uint16_t>& a, const std::vector<std::uint16_t>& b, std::int64_t j) {
        return std::equal(a.begin() + j * books, a.begin() + (j + 1) * books, b.begin() + j * books);
    }
    /// Of the encodings that differ in one code.
    void nearest_change(std::int64_t group, const Values& target, std::vector<std::uint16_t>& codes) const {
        std::vector<std::uint16_t> best;
        double least = INFINITY;
        for (std::int64_t m = 0; m < books; ++m) {
            for (std::uint16_t code = 0; code < size; ++code) {
                std::vector<std::uint16_t> moved = codes;
                if (std::exchange(moved[static_cast<std::size_t>(group * books + m)], code) == code) continue;
                const double distance = squared_distance(target, weights_of(moved), group);
                if (distance >= least) continue;
                least = distance;
                best = moved;
            }
        }
        codes = best;
    }

    std::vector<std::uint16_t> codes_now() {
        const Tensor codes = dynamic_cast<AdditiveRepresentation&>(*matrix().quantized).additive().codes;
        const std::uint8_t* bytes = codes.as<std::uint8_t>();
        return {bytes, bytes + codes.elements()};
    }

    VState v_state(const TuneSettings& settings) {
        VState state = allocate_v_state(backend_->arena(), matrix(), settings);
        state.score_squares = backend_->arena().allocate("record", DType::f64, {1});
        state.predicted = backend_->arena().allocate("record", DType::f64, {1});
        state.changed = backend_->arena().allocate("record", DType::u32, {1});
        state.returned = backend_->arena().allocate("record", DType::u32, {1});
        return state;
    }
    static VTurn turn_of(const OwnedTensor& gradient, const TuneSettings& settings, std::int64_t update) {
        return {gradient, 1, update, seed_of(settings.seed, update, 0), v_budget(groups, settings)};
    }
    static std::int64_t changed_by(const VState& state) { return *state.changed.as<std::uint32_t>(); }

    /// Three steps with other gradients each time; returns how many codes changed.
    std::int64_t follow(const TuneSettings& settings) {
        const VState state = v_state(settings);
        const VScratch scratch = allocate_v_scratch(backend_->arena(), model_, settings);
        start_v_state(backend_->ops(), matrix(), state, scratch);
        // Moments of steps before: after the first one every update is a sign, and all scores are one.
        const OwnedTensor earlier = gradient(1);
        for (std::int64_t i = 0; i < rows * columns; ++i) {
            const float value = earlier->as<float>()[i];
            state.second_moment.as<float>()[i] = value * value;
        }
        Expected expected{values_of(state.second_moment), weights_of(codes_), codes_};
        std::int64_t changed = 0;
        for (std::int64_t update = 20; update <= 22; ++update) {
            const OwnedTensor g = gradient(static_cast<std::uint32_t>(10 + update));
            const Values before = weights_of(expected.codes);
            matrix().quantized->dequantize(backend_->ops(), matrix().weight);
            v_step(backend_->ops(), matrix(), state, scratch, settings, turn_of(g, settings, update));
            expect_step(expected, values_of(g), settings, update);
            EXPECT_EQ(codes_now(), expected.codes) << "update " << update;
            EXPECT_LT(relative_error(state.second_moment, expected.second), f32_tolerance);
            if (!state.buffer.empty()) {
                EXPECT_LT(relative_error(state.buffer, expected.buffer), f32_tolerance);
            }
            EXPECT_EQ(v_budget(groups, settings), expected.selected);
            EXPECT_EQ(changed_by(state), expected.changed);
            EXPECT_TRUE(std::isfinite(*state.score_squares.as<double>()));
            changed += changed_by(state);
            Values difference = weights_of(codes_now());
            for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= before[i];
            EXPECT_NEAR(*state.predicted.as<double>(), dot(values_of(g), difference), 1e-8);
            if (settings.trust_ratio <= 0) continue;
            EXPECT_LE(std::sqrt(dot(difference, difference)),
                      settings.trust_ratio * std::sqrt(dot(before, before)) * (1 + f32_tolerance));
        }
        return changed;
    }

    void reset() {
        dynamic_cast<AdditiveRepresentation&>(*matrix().quantized).upload(*backend_, codes_, codebooks_, scales_);
    }

    static TuneSettings settings_of(Strategy strategy, double tau) {
        TuneSettings settings;
        settings.strategy = strategy;
        settings.tau = tau;
        settings.beam = size;  // every first code with every second: the search is exact
        settings.code_rate = settings.subspace_rate = 0.4F;
        return settings;
    }

    std::unique_ptr<Backend> backend_;
    Model model_;
    std::vector<std::uint16_t> codes_;
    std::vector<float> codebooks_, scales_;
};

class VStepCases : public VStep, public ::testing::WithParamInterface<std::tuple<Strategy, double, bool, double>> {};

TEST_P(VStepCases, MatchesPlainLoops) {
    const auto [strategy, tau, lamb, trust_ratio] = GetParam();
    TuneSettings settings = settings_of(strategy, tau);
    settings.lamb = lamb;
    settings.trust_ratio = trust_ratio;
    EXPECT_GT(follow(settings), 0);
}

TEST_F(VStep, EveryGroupFollowsItsTarget) {
    for (const Strategy strategy : {Strategy::naive_linearized, Strategy::ste}) {
        EXPECT_GT(follow(settings_of(strategy, 0.01)), groups / 2) << name_of(strategy);
        reset();
    }
}

TEST_F(VStep, ForcedCodesAllChange) {
    TuneSettings settings = settings_of(Strategy::pv, 0.2);
    settings.subspace_rate = 1e-3F;  // else no group would leave its code
    EXPECT_EQ(follow(settings), 0);
    reset();
    settings.force_codes = true;
    EXPECT_EQ(follow(settings), 3 * v_budget(groups, settings));
}

TEST_F(VStep, OfSeveralCandidatesThoseStayThatGainMost) {
    for (const Strategy strategy : {Strategy::pv, Strategy::pv_ste}) {
        for (const double trust_ratio : {0.0, 0.4}) {
            TuneSettings settings = settings_of(strategy, 0.2);
            settings.code_rate = settings.subspace_rate = 0.15F;
            settings.trust_ratio = trust_ratio;
            const std::int64_t alone = follow(settings);
            reset();
            settings.candidates = 4;
            const std::int64_t of_four = follow(settings);
            reset();
            EXPECT_GE(of_four, alone);
            if (trust_ratio == 0) {
                EXPECT_GT(of_four, alone);
            }
        }
    }
}

TEST_F(VStep, StochasticRoundingTakesTheTwoNearestByTheirOdds) {
    TuneSettings settings = settings_of(Strategy::stochastic_rounding, 1);
    settings.code_rate = 0.1F;
    const OwnedTensor g = gradient(30);
    std::vector<std::vector<std::uint16_t>> outcomes;
    constexpr int runs = 400;
    Values target;
    for (int run = 0; run < runs; ++run) {
        reset();
        settings.seed = static_cast<std::uint64_t>(run);
        const VState state = v_state(settings);
        const VScratch scratch = allocate_v_scratch(backend_->arena(), model_, settings);
        v_step(backend_->ops(), matrix(), state, scratch, settings, turn_of(g, settings, 1));
        target = values_of(scratch.target);
        outcomes.push_back(codes_now());
        std::int64_t moved = 0;
        for (std::int64_t j = 0; j < groups; ++j) moved += same_codes(outcomes.back(), codes_, j) ? 0 : 1;
        EXPECT_EQ(changed_by(state), moved);
    }
    for (std::int64_t j = 0; j < groups; ++j) {
        std::vector<std::uint16_t> first = codes_;
        nearest(j, target, first.data() + j * books);
        std::vector<std::uint16_t> second = first;
        nearest_change(j, target, second);
        const double d1 = std::sqrt(squared_distance(target, weights_of(first), j));
        const double d2 = std::sqrt(squared_distance(target, weights_of(second), j));
        const double p = d1 / (d1 + d2);
        int took_second = 0;
        for (const auto& outcome : outcomes) {
            EXPECT_TRUE(same_codes(outcome, first, j) || same_codes(outcome, second, j)) << "group " << j;
            took_second += same_codes(outcome, second, j) ? 1 : 0;
        }
        EXPECT_NEAR(took_second / static_cast<double>(runs), p, 5 * std::sqrt(p * (1 - p) / runs) + 1e-9);
    }
}

TEST_F(VStep, EagerChangesLowerALinearLoss) {
    TuneSettings settings = settings_of(Strategy::pv, 0.2);
    settings.subspace = Subspace::eager;
    const VState state = v_state(settings);
    const VScratch scratch = allocate_v_scratch(backend_->arena(), model_, settings);
    const OwnedTensor g = gradient(31);
    v_step(backend_->ops(), matrix(), state, scratch, settings, turn_of(g, settings, 1));
    EXPECT_EQ(changed_by(state), v_budget(groups, settings));
    Values difference = weights_of(codes_now());
    const Values before = weights_of(codes_);
    for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= before[i];
    const double change = dot(values_of(g), difference);
    EXPECT_LT(change, 0);
    EXPECT_NEAR(*state.predicted.as<double>(), change, 1e-8);
    // After one step D is |g|: every group that changed is as eager as any other could be.
    double least = INFINITY;
    double most_left = 0;
    const Values gradients = values_of(g);
    for (std::int64_t j = 0; j < groups; ++j) {
        double best = 0;
        for (std::int64_t m = 0; m < books; ++m) {
            for (std::uint16_t code = 0; code < size; ++code) {
                std::vector<std::uint16_t> moved = codes_;
                if (std::exchange(moved[static_cast<std::size_t>(j * books + m)], code) == code) continue;
                const Values after = weights_of(moved);
                double product = 0;
                double square = 0;
                for (auto i = static_cast<std::size_t>(j * width); i < static_cast<std::size_t>((j + 1) * width); ++i) {
                    const double delta = after[i] - before[i];
                    product += gradients[i] * delta;
                    square += std::abs(gradients[i]) * delta * delta;
                }
                best = std::max(best, -product / square);
            }
        }
        double& bound = same_codes(codes_now(), codes_, j) ? most_left : least;
        bound = same_codes(codes_now(), codes_, j) ? std::max(bound, best) : std::min(bound, best);
    }
    EXPECT_GE(least, most_left * (1 - 1e-4));
}

// Of 24 groups 1, 3 and 5 are odd numbers: among the twins some tie is always cut.
INSTANTIATE_TEST_SUITE_P(All, VStepCases,
                         ::testing::Combine(::testing::Values(Strategy::pv, Strategy::pv_ste),
                                            ::testing::Values(0.01, 0.1, 0.2, 1.0), ::testing::Bool(),
                                            ::testing::Values(0.0, 0.6)));

TEST_F(VStep, AnEarlierTwinGoesFirst) {
    OwnedTensor g(DType::f32, {rows, columns});
    for (const std::int64_t row : {0, 1}) {
        for (std::int64_t i = 4; i < 8; ++i) g.set(row * columns + i, 1);  // the second group of both rows
    }
    TuneSettings settings = settings_of(Strategy::pv, 0.01);
    settings.subspace_rate = 1;
    const VState state = v_state(settings);
    const VScratch scratch = allocate_v_scratch(backend_->arena(), model_, settings);
    v_step(backend_->ops(), matrix(), state, scratch, settings, turn_of(g, settings, 1));
    EXPECT_EQ(changed_by(state), 1);
    const auto codes = codes_now();
    for (std::size_t i = 0; i < codes.size(); ++i) {
        if (i / books != 1) {
            EXPECT_EQ(codes[i], codes_[i]) << i;
        }
    }
}

TEST_F(VStep, NoGradientChangesNothing) {
    for (const Strategy strategy : {Strategy::pv, Strategy::pv_ste}) {
        const TuneSettings settings = settings_of(strategy, 1);
        const VState state = v_state(settings);
        const VScratch scratch = allocate_v_scratch(backend_->arena(), model_, settings);
        start_v_state(backend_->ops(), matrix(), state, scratch);
        const OwnedTensor zero(DType::f32, {rows, columns});
        const Values before = weights_of(codes_);
        v_step(backend_->ops(), matrix(), state, scratch, settings, turn_of(zero, settings, 1));
        // Two pairs of codes may stand for one point to the last bit; the weights count.
        EXPECT_LT(relative_error(weights_of(codes_now()), before), f32_tolerance);
    }
}

}  // namespace
}  // namespace pvtune
