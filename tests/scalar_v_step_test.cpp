// V steps on a scalar grid, where one weight is a group, against plain loops over the weights.
#include "host/quant/scalar.h"
#include "host/tune/subspace.h"
#include "host/tune/v_step.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

class ScalarVStep : public ::testing::Test {
protected:
    static constexpr std::int64_t rows = 4, columns = 39, grid = 32, count = rows * columns;
    static constexpr int levels = 8;

    ScalarVStep() : backend_(make_cpu_backend({.threads = 1})) {
        model_.blocks.resize(1);
        Matrix& matrix = model_.blocks[0].matrices[0];
        matrix.name = "a matrix";
        matrix.rows = rows;
        matrix.columns = columns;
        matrix.weight = backend_->arena().allocate("weights", DType::f32, {rows, columns});
        auto quantized =
            std::make_unique<ScalarRepresentation>(*backend_, rows, columns, QuantizationSpec{"scalar", 1, 3, grid});
        std::mt19937 engine(3);
        for (auto& code : codes_) code = static_cast<std::uint8_t>(engine() % levels);
        // Rows 0 and 1 are twins, here and in their gradients: all their scores tie.
        std::copy_n(codes_.begin(), columns, codes_.begin() + columns);
        quantized->upload(*backend_, codes_, scales_, zeros_);
        matrix.quantized = std::move(quantized);
    }

    Matrix& matrix() { return model_.blocks[0].matrices[0]; }
    double value(std::size_t i, int code) const {
        const std::size_t g = i / columns * 2 + i % columns / grid;
        return static_cast<double>(scales_[g]) * (code - static_cast<double>(zeros_[g]));
    }
    VState v_state(const TuneSettings& settings) {
        VState state = allocate_v_state(backend_->arena(), matrix(), settings);
        state.score_squares = backend_->arena().allocate("record", DType::f64, {1});
        state.predicted = backend_->arena().allocate("record", DType::f64, {1});
        state.changed = backend_->arena().allocate("record", DType::u32, {1});
        return state;
    }
    static VTurn turn_of(const OwnedTensor& gradient, const TuneSettings& settings, std::int64_t update) {
        return {gradient, 1, update, seed_of(settings.seed, update, 0), v_budget(count, settings)};
    }
    std::vector<std::uint8_t> codes_now() {
        const std::uint8_t* now =
            dynamic_cast<ScalarRepresentation&>(*matrix().quantized).scalar().codes.as<std::uint8_t>();
        return {now, now + count};
    }
    Values weights() const {
        Values out;
        for (std::size_t i = 0; i < codes_.size(); ++i) out.push_back(value(i, codes_[i]));
        return out;
    }

    std::unique_ptr<Backend> backend_;
    Model model_;
    std::vector<std::uint8_t> codes_ = std::vector<std::uint8_t>(count);
    std::vector<float> scales_ = {0.5F, 1, 0.5F, 1, -0.25F, 0.75F, 1, 2}, zeros_ = {3.5F, 4, 3.5F, 4, 2, 5, 0, 7};
};

class ScalarVStepCases : public ScalarVStep,
                         public ::testing::WithParamInterface<std::tuple<Strategy, double, double>> {};

TEST_P(ScalarVStepCases, MatchesPlainLoops) {
    const auto [strategy, tau, trust_ratio] = GetParam();
    TuneSettings settings;
    settings.strategy = strategy;
    settings.tau = tau;
    settings.code_rate = settings.subspace_rate = 0.4F;
    settings.trust_ratio = trust_ratio;
    const VState state = v_state(settings);
    const VScratch scratch = allocate_v_scratch(backend_->arena(), model_, settings);
    start_v_state(backend_->ops(), matrix(), state, scratch);
    Values second(count), buffer = weights();
    std::int64_t all_changed = 0;
    for (std::int64_t update = 1; update <= 3; ++update) {
        OwnedTensor g = random_tensor(DType::f32, {rows, columns}, static_cast<std::uint32_t>(update), 1e-3);
        std::copy_n(g->as<float>(), columns, g->as<float>() + columns);
        matrix().quantized->dequantize(backend_->ops(), matrix().weight);
        v_step(backend_->ops(), matrix(), state, scratch, settings, turn_of(g, settings, update));

        const Values current = weights();
        Values target = strategy == Strategy::pv_ste ? buffer : current;
        const auto beta2 = static_cast<double>(settings.code_beta2);
        const Values gradient = values_of(g);
        Values u;
        for (std::size_t i = 0; i < gradient.size(); ++i) {
            second[i] = beta2 * second[i] + (1 - beta2) * gradient[i] * gradient[i];
            u.push_back(gradient[i] /
                        (std::sqrt(second[i] / (1 - std::pow(beta2, static_cast<double>(update)))) + 1e-8));
        }
        const double rate = static_cast<double>(settings.code_rate) * std::sqrt(dot(target, target) / dot(u, u));
        for (std::size_t i = 0; i < u.size(); ++i) target[i] -= rate * u[i];
        if (strategy == Strategy::pv_ste) buffer = target;
        // The order of the engine's own scores: those of the first step differ in their last bits only.
        const float* scores = scratch.scores.as<float>();
        std::vector<std::size_t> order(gradient.size());
        for (std::size_t i = 0; i < order.size(); ++i) {
            order[i] = i;
            const double moved = target[i] - current[i];
            EXPECT_NEAR(static_cast<double>(scores[i]), moved * moved, 1e-5 * rate * rate);
        }
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
        order.resize(static_cast<std::size_t>(std::ceil(tau * count)));
        double budget = trust_ratio * trust_ratio * dot(current, current);
        std::int64_t changed = 0;
        for (const std::size_t i : order) {
            int best = 0;
            for (int code = 1; code < levels; ++code) {
                if (std::abs(value(i, code) - target[i]) < std::abs(value(i, best) - target[i])) best = code;
            }
            budget -= std::pow(value(i, best) - current[i], 2);
            if (trust_ratio > 0 && budget < 0) break;
            changed += best != codes_[i] ? 1 : 0;
            codes_[i] = static_cast<std::uint8_t>(best);
        }
        EXPECT_EQ(codes_now(), codes_) << "update " << update;
        EXPECT_EQ(*state.changed.as<std::uint32_t>(), changed);
        EXPECT_LT(relative_error(state.second_moment, second), f32_tolerance);
        all_changed += changed;
    }
    EXPECT_GT(all_changed, 0);
}

INSTANTIATE_TEST_SUITE_P(All, ScalarVStepCases,
                         ::testing::Combine(::testing::Values(Strategy::pv, Strategy::pv_ste),
                                            ::testing::Values(0.02, 0.1, 1.0), ::testing::Values(0.0, 0.3)));

TEST_F(ScalarVStep, ForcedAndEagerCodesAreNextToThoseBefore) {
    for (const bool eager : {false, true}) {
        TuneSettings settings;
        settings.strategy = Strategy::pv;
        settings.tau = 0.2;
        settings.subspace_rate = 1e-3F;  // else no weight would leave its code
        settings.force_codes = !eager;
        if (eager) settings.subspace = Subspace::eager;
        const VState state = v_state(settings);
        const VScratch scratch = allocate_v_scratch(backend_->arena(), model_, settings);
        matrix().quantized->dequantize(backend_->ops(), matrix().weight);
        const OwnedTensor g = random_tensor(DType::f32, {rows, columns}, 5, 1e-3);
        const std::vector<std::uint8_t> before = codes_now();
        const Values old = values_of(matrix().weight);
        v_step(backend_->ops(), matrix(), state, scratch, settings, turn_of(g, settings, 1));
        matrix().quantized->dequantize(backend_->ops(), matrix().weight);
        const Values now = values_of(matrix().weight);
        double predicted = 0;
        std::int64_t changed = 0;
        for (std::size_t i = 0; i < before.size(); ++i) {
            predicted += values_of(g)[i] * (now[i] - old[i]);
            const int steps = codes_now()[i] - before[i];
            changed += steps != 0 ? 1 : 0;
            EXPECT_LE(std::abs(steps), 1);
            if (eager) {
                EXPECT_LE(values_of(g)[i] * (now[i] - old[i]), 0) << i;
            }
        }
        EXPECT_EQ(changed, v_budget(count, settings)) << (eager ? "eager" : "forced");
        EXPECT_EQ(*state.changed.as<std::uint32_t>(), changed);
        EXPECT_NEAR(*state.predicted.as<double>(), predicted, 1e-8);
    }
}

TEST_F(ScalarVStep, StochasticRoundingIsUnbiasedOnAGrid) {
    TuneSettings settings;
    settings.strategy = Strategy::stochastic_rounding;
    settings.code_rate = 0.05F;
    const OwnedTensor g = random_tensor(DType::f32, {rows, columns}, 6, 1e-3);
    const VState state = v_state(settings);
    const VScratch scratch = allocate_v_scratch(backend_->arena(), model_, settings);
    constexpr int runs = 600;
    Values mean(count), target;
    for (int run = 0; run < runs; ++run) {
        settings.seed = static_cast<std::uint64_t>(run);
        dynamic_cast<ScalarRepresentation&>(*matrix().quantized).upload(*backend_, codes_, scales_, zeros_);
        matrix().quantized->dequantize(backend_->ops(), matrix().weight);
        backend_->ops().fill_zero(state.second_moment);
        v_step(backend_->ops(), matrix(), state, scratch, settings, turn_of(g, settings, 1));
        target = values_of(scratch.target);
        const auto codes = codes_now();
        for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += value(i, codes[i]) / runs;
    }
    for (std::size_t i = 0; i < mean.size(); ++i) {
        const double low = std::min(value(i, 0), value(i, levels - 1));
        const double high = std::max(value(i, 0), value(i, levels - 1));
        if (target[i] <= low || target[i] >= high) continue;
        const double step = std::abs(value(i, 1) - value(i, 0));
        EXPECT_NEAR(mean[i], target[i], 5 * step * 0.5 / std::sqrt(runs)) << i;
    }
}

}  // namespace
}  // namespace pvtune
