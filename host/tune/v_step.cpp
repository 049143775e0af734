#include "host/tune/v_step.h"

#include "host/tune/finite.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace pvtune {

namespace {

std::int64_t subspace_size(std::int64_t groups, double tau) {
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(tau * static_cast<double>(groups))), 1, groups);
}

Tensor as_matrix(Tensor memory, const Matrix& matrix) {
    return {memory.data, memory.dtype, {matrix.rows, matrix.columns}};
}

/// Takes back changes, those of the smallest scores first, until |What_new - What_old| <= trust_ratio |What_old|.
void bound_change(Backend& backend, Matrix& matrix, const VScratch& scratch, double trust_ratio, Tensor selected,
                  Tensor changed, Tensor saved) {
    Ops& ops = backend.ops();
    const auto count = static_cast<std::size_t>(selected.elements());
    const Tensor distance = scratch.distance.rows(0, selected.elements());
    matrix.quantized->code_change(ops, distance, saved, selected);
    std::vector<float> distances(count);
    std::vector<float> scores(static_cast<std::size_t>(scratch.scores.elements()));
    std::vector<std::uint32_t> groups(count);
    std::vector<std::uint8_t> keep(count);
    backend.download(distances.data(), distance);
    backend.download(scores.data(), scratch.scores);
    backend.download(groups.data(), selected);
    backend.download(keep.data(), changed);
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return scores[groups[a]] > scores[groups[b]]; });
    double budget = trust_ratio * trust_ratio * ops.sum_of_squares(matrix.weight);
    for (const std::size_t i : order) {
        budget -= static_cast<double>(distances[i]);
        if (budget < 0) keep[i] = 0;
    }
    backend.upload(changed, keep.data());
    matrix.quantized->restore_codes(ops, saved, selected, changed);
}

}  // namespace

VState allocate_v_state(Arena& arena, const Matrix& matrix, const TuneSettings& settings) {
    VState state;
    state.second_moment = arena.allocate("second moment of codes", matrix.weight.dtype, {matrix.rows, matrix.columns});
    if (settings.strategy == Strategy::pv_ste) {
        state.buffer = arena.allocate("straight-through buffers", DType::f32, {matrix.rows, matrix.columns});
    }
    return state;
}

VScratch allocate_v_scratch(Arena& arena, const Model& model, const TuneSettings& settings) {
    std::int64_t elements = 0;
    std::int64_t groups = 0;
    std::int64_t code_bytes = 0;
    for (const Block& block : model.blocks) {
        for (const Matrix& matrix : block.matrices) {
            if (!matrix.quantized) continue;
            elements = std::max(elements, matrix.rows * matrix.columns);
            groups = std::max(groups, matrix.quantized->groups());
            code_bytes =
                std::max(code_bytes, matrix.quantized->codes_per_group() * size_of(matrix.quantized->code_dtype()));
        }
    }
    const std::int64_t chosen = groups > 0 ? subspace_size(groups, settings.tau) : 0;
    VScratch scratch;
    if (settings.strategy == Strategy::pv) scratch.target = arena.allocate("V step", DType::f32, {elements});
    scratch.scores = arena.allocate("V step", DType::f32, {groups});
    scratch.selected = arena.allocate("V step", DType::u32, {chosen});
    scratch.changed = arena.allocate("V step", DType::u8, {chosen});
    if (settings.trust_ratio > 0) {
        scratch.saved = arena.allocate("V step", DType::u8, {chosen * code_bytes});
        scratch.distance = arena.allocate("V step", DType::f32, {chosen});
    }
    return scratch;
}

void start_buffer(Ops& ops, const Matrix& matrix, const VState& state) {
    if (!state.buffer.empty()) matrix.quantized->dequantize(ops, state.buffer);
}

VReport v_step(Backend& backend, Matrix& matrix, const VState& state, const VScratch& scratch,
               const TuneSettings& settings, Tensor d_weight, double factor, std::int64_t update) {
    Ops& ops = backend.ops();
    Representation& quantized = *matrix.quantized;
    const bool straight_through = settings.strategy == Strategy::pv_ste;
    VReport report;
    report.groups = quantized.groups();
    report.selected = subspace_size(report.groups, settings.tau);

    VStepSettings v;
    v.rate = static_cast<float>(factor) * (straight_through ? settings.code_rate : settings.subspace_rate);
    v.beta2 = settings.code_beta2;
    v.lamb = settings.lamb;
    v.step = update;
    const Tensor target = straight_through ? state.buffer : as_matrix(scratch.target, matrix);
    VScratch used = scratch;
    used.scores = scratch.scores.rows(0, report.groups);
    ops.moment_and_score(target, used.scores, state.second_moment, d_weight,
                         straight_through ? state.buffer : matrix.weight, matrix.weight, quantized.group(), v);
    if (!all_finite(ops, used.scores)) {
        throw Error("step " + std::to_string(update) + ": the V step's target for " + matrix.name +
                    " is not finite: resume from the last checkpoint with a smaller --code-lr or --subspace-lr");
    }

    const Tensor selected = scratch.selected.rows(0, report.selected);
    const Tensor changed = scratch.changed.rows(0, report.selected);
    ops.select_largest(selected, used.scores);
    Tensor saved;
    if (settings.trust_ratio > 0) {
        saved = {scratch.saved.data, quantized.code_dtype(), {report.selected, quantized.codes_per_group()}};
        quantized.gather_codes(ops, saved, selected);
    }
    const int beam = settings.beam > 0 ? settings.beam : quantized.codes_per_group() > 1 ? 5 : 1;
    quantized.assign(ops, changed, target, selected, beam);
    if (settings.trust_ratio > 0) bound_change(backend, matrix, used, settings.trust_ratio, selected, changed, saved);

    std::vector<std::uint8_t> flags(static_cast<std::size_t>(report.selected));
    backend.download(flags.data(), changed);
    report.changed = std::count_if(flags.begin(), flags.end(), [](std::uint8_t flag) { return flag != 0; });
    return report;
}

}  // namespace pvtune
