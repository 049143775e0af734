#include "host/tune/v_step.h"

#include <algorithm>
#include <cmath>

namespace pvtune {

namespace {

Tensor as_matrix(Tensor memory, const Matrix& matrix) {
    return {memory.data, memory.dtype, {matrix.rows, matrix.columns}};
}

}  // namespace

std::int64_t subspace_size(std::int64_t groups, double tau) {
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(tau * static_cast<double>(groups))), 1, groups);
}

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
        scratch.weight_squares = arena.allocate("V step", DType::f64, {1});
    }
    return scratch;
}

void start_buffer(Ops& ops, const Matrix& matrix, const VState& state) {
    if (!state.buffer.empty()) matrix.quantized->dequantize(ops, state.buffer);
}

void v_step(Ops& ops, Matrix& matrix, const VState& state, const VScratch& scratch, const TuneSettings& settings,
            Tensor d_weight, double factor, std::int64_t update) {
    Representation& quantized = *matrix.quantized;
    const bool straight_through = settings.strategy == Strategy::pv_ste;
    VStepSettings v;
    v.rate = static_cast<float>(factor) * (straight_through ? settings.code_rate : settings.subspace_rate);
    v.beta2 = settings.code_beta2;
    v.lamb = settings.lamb;
    v.step = update;
    const Tensor target = straight_through ? state.buffer : as_matrix(scratch.target, matrix);
    const Tensor scores = scratch.scores.rows(0, quantized.groups());
    ops.moment_and_score(target, scores, state.second_moment, d_weight, straight_through ? state.buffer : matrix.weight,
                         matrix.weight, quantized.group(), v);
    ops.sum_of_squares(state.score_squares, scores);

    const std::int64_t count = subspace_size(quantized.groups(), settings.tau);
    const Tensor selected = scratch.selected.rows(0, count);
    const Tensor changed = scratch.changed.rows(0, count);
    ops.select_largest(selected, scores);
    const bool bounded = settings.trust_ratio > 0;
    const Tensor saved(scratch.saved.data, quantized.code_dtype(), {count, quantized.codes_per_group()});
    if (bounded) quantized.gather_codes(ops, saved, selected);
    const int beam = settings.beam > 0 ? settings.beam : quantized.codes_per_group() > 1 ? 5 : 1;
    quantized.assign(ops, changed, target, selected, beam);
    if (bounded) {
        const Tensor distance = scratch.distance.rows(0, count);
        quantized.code_change(ops, distance, saved, selected);
        ops.sum_of_squares(scratch.weight_squares, matrix.weight);
        ops.bound_changes(changed, distance, scores, selected, scratch.weight_squares, settings.trust_ratio);
        quantized.restore_codes(ops, saved, selected, changed);
    }
    ops.count_flags(state.changed, changed);
}

}  // namespace pvtune
