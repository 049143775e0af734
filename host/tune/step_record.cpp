// What a tuning step leaves on the device for a look at its end: losses, checks for numbers that are not finite, and
// the ledger of the V steps.

#include "host/tune/finite.h"
#include "host/tune/subspace.h"
#include "host/tune/tuner.h"
#include "io/error.h"

#include <cmath>
#include <numeric>

namespace pvtune {

void Tuner::allocate_record() {
    std::vector<Tensor*> squares, predicted, changed, returned;
    std::vector<Tensor*> histograms;
    const auto add = [&](std::vector<TrainedParameter>& parameters) {
        for (TrainedParameter& parameter : parameters) squares.push_back(&parameter.gradient_squares);
    };
    for (BlockState& block : blocks_) {
        for (MatrixState& matrix : block.matrices) add(matrix.continuous);
        add(block.dense);
    }
    add(dense_);
    for_moving([&](const Matrix&, MatrixState& state) {
        squares.push_back(&state.v.score_squares);
        predicted.push_back(&state.v.predicted);
        changed.push_back(&state.v.changed);
        if (settings_.measure_v) returned.push_back(&state.v.returned);
        if (settings_.subspace == Subspace::layer_budget) histograms.push_back(&state.v.histogram);
    });
    const auto allocate = [&](DType dtype, const std::vector<Tensor*>& slots, std::int64_t size = 1) {
        const auto count = static_cast<std::int64_t>(slots.size());
        const Tensor all = backend_.arena().allocate("step record", dtype, {count * size});
        for (std::int64_t i = 0; i < count; ++i) *slots[static_cast<std::size_t>(i)] = all.rows(i * size, size);
        return all;
    };
    squares_ = allocate(DType::f64, squares);
    predicted_ = allocate(DType::f64, predicted);
    changed_ = allocate(DType::u32, changed);
    returned_ = allocate(DType::u32, returned);
    histograms_ = allocate(DType::u32, histograms, score_bins);
    losses_ = backend_.arena().allocate("step record", DType::f32, {micro_batches_ * micro_.tokens()});
}

namespace {

template <class T>
std::vector<T> downloaded(Backend& backend, Tensor tensor) {
    std::vector<T> values(static_cast<std::size_t>(tensor.elements()));
    backend.download(values.data(), tensor);
    return values;
}

double mean_of(const std::vector<float>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::string remedy(const std::string& flags) {
    return "resume from the last checkpoint, if there is one, with a smaller " + flags;
}

}  // namespace

void Tuner::read_record(StepReport& report) {
    report.loss = mean_of(downloaded<float>(backend_, losses_));
    const auto squares = downloaded<double>(backend_, squares_);
    if (!std::isfinite(report.loss)) refuse_loss();

    const auto check = [&](Tensor slot, const std::string& what, const std::string& flags) {
        if (std::isfinite(squares[static_cast<std::size_t>(slot.as<double>() - squares_.as<double>())])) return;
        throw Error("step " + std::to_string(steps_done_ + 1) + ": " + what + " is not finite: " + remedy(flags));
    };
    const auto check_gradient = [&](const TrainedParameter& parameter) {
        check(parameter.gradient_squares, "the gradient of " + parameter.name, rate_flags(settings_));
    };
    report.v_step = v_step_now();
    // In the order of the step: the first fault is where it began.
    for (std::size_t i = blocks_.size(); i-- > 0;) {
        for (std::size_t j = 0; j < matrices_per_block; ++j) {
            const MatrixState& state = blocks_[i].matrices[j];
            for (const TrainedParameter& parameter : state.continuous) check_gradient(parameter);
            if (state.v.second_moment.empty() || !report.v_step) continue;
            const Matrix& matrix = student_.blocks[i].matrices[j];
            check(state.v.score_squares, "the V step's target for " + matrix.name,
                  settings_.strategy == Strategy::pv ? "--subspace-lr" : "--code-lr");
        }
        for (const TrainedParameter& parameter : blocks_[i].dense) check_gradient(parameter);
    }
    for (const TrainedParameter& parameter : dense_) check_gradient(parameter);
    if (report.v_step) read_ledger(report);
}

void Tuner::read_ledger(StepReport& report) {
    const auto sum = [](const auto& values) { return std::accumulate(values.begin(), values.end(), std::int64_t{0}); };
    const auto predicted = downloaded<double>(backend_, predicted_);
    report.predicted_change = std::accumulate(predicted.begin(), predicted.end(), 0.0);
    const auto changed = downloaded<std::uint32_t>(backend_, changed_);
    report.changed = sum(changed);
    report.groups_by_block.resize(blocks_.size());
    report.changed_by_block.resize(blocks_.size());
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        for (std::size_t j = 0; j < matrices_per_block; ++j) {
            const VState& v = blocks_[i].matrices[j].v;
            if (v.second_moment.empty()) continue;
            report.groups_by_block[i] += student_.blocks[i].matrices[j].quantized->groups();
            report.changed_by_block[i] +=
                changed[static_cast<std::size_t>(v.changed.as<std::uint32_t>() - changed_.as<std::uint32_t>())];
        }
    }
    if (settings_.measure_v) report.returned = sum(downloaded<std::uint32_t>(backend_, returned_));
    std::vector<std::int64_t> groups;
    for_moving([&](const Matrix& matrix, const MatrixState& state) {
        groups.push_back(matrix.quantized->groups());
        report.groups += groups.back();
        report.selected += state.budget;
        report.searched += searched_groups(groups.back(), state.budget, settings_);
    });
    if (settings_.subspace != Subspace::layer_budget) return;
    const auto budgets =
        share_budget(downloaded<std::uint32_t>(backend_, histograms_), groups, model_budget(student_, settings_));
    std::size_t next = 0;
    for_moving([&](const Matrix&, MatrixState& state) { state.budget = budgets[next++]; });
}

double Tuner::loss_now() {
    student_forward();
    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) distillation(micro);
    return mean_of(downloaded<float>(backend_, losses_));
}

double Tuner::measure_v_steps() {
    Ops& ops = backend_.ops();
    const auto set_codes = [&](Tensor VState::*codes) {
        for_moving([&](Matrix& matrix, const MatrixState& state) {
            const std::int64_t groups = matrix.quantized->groups();
            const Tensor everyone = v_scratch_.everyone.rows(0, groups);
            const Tensor keep_none = v_scratch_.flags.rows(0, groups);
            ops.round_robin(everyone, 0, groups);
            ops.fill_zero(keep_none);
            matrix.quantized->restore_codes(ops, state.v.*codes, everyone, keep_none);
        });
    };
    const double with = loss_now();
    set_codes(&VState::before);
    const double without = loss_now();
    set_codes(&VState::now);
    return with - without;
}

void Tuner::refuse_loss() {
    std::string where = find_not_finite(backend_, teacher_);
    if (!where.empty()) where = "the teacher's " + where;
    if (where.empty()) where = find_not_finite(backend_, student_);
    for (std::int64_t i = 0; i <= student_.config.layers && where.empty(); ++i) {
        hidden_.fetch(i);
        hidden_.await(i);
        for (std::int64_t micro = 0; micro < micro_batches_ && where.empty(); ++micro) {
            if (all_finite(backend_, hidden_.at(micro, i))) continue;
            where = i == 0 ? "the embedded text" : "the output of block " + std::to_string(i - 1);
        }
    }
    throw Error("step " + std::to_string(steps_done_ + 1) + ": the loss is not finite" +
                (where.empty() ? "" : ", and neither is " + where) + ": " + remedy(rate_flags(settings_)));
}

}  // namespace pvtune
