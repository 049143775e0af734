#include "host/tune/v_step.h"

#include "host/tune/subspace.h"

#include <algorithm>
#include <cmath>

namespace pvtune {

namespace {

Tensor as_matrix(Tensor memory, const Matrix& matrix) {
    return {memory.data, memory.dtype, {matrix.rows, matrix.columns}};
}

Tensor codes_of(Tensor memory, const Representation& quantized, std::int64_t groups) {
    return {memory.data, quantized.code_dtype(), {groups, quantized.codes_per_group()}};
}

/// Neighbouring weights that share a second moment.
std::int64_t moment_group(const Matrix& matrix, const TuneSettings& settings) {
    constexpr std::int64_t of_single_weights = 8;
    if (settings.code_moment == CodeMoment::weight) return 1;
    if (matrix.quantized->group() > 1) return matrix.quantized->group();
    return matrix.columns % of_single_weights == 0 ? of_single_weights : 1;
}

/// The views of one V step: of the scratch what this matrix needs, of `searched` groups.
struct Search {
    Ops& ops;
    Representation& quantized;
    const TuneSettings& settings;
    const VTurn& turn;
    Tensor wanted;    ///< f32 [rows, columns], of W
    Tensor target;    ///< the same where W's own groups have codes, else in code space
    Tensor scores;    ///< f32 [groups]
    Tensor selected;  ///< u32 [searched]
    Tensor changed;   ///< u8 [searched]
    Tensor saved;     ///< codes [searched, codes_per_group]
};

void set_target(const Search& search, const Matrix& matrix, const VState& state) {
    const TuneSettings& settings = search.settings;
    VStepSettings v;
    v.rate = static_cast<float>(search.turn.factor) *
             (settings.strategy == Strategy::pv ? settings.subspace_rate : settings.code_rate);
    v.beta2 = settings.code_beta2;
    v.lamb = settings.lamb;
    v.step = search.turn.update;
    Tensor base = settings.straight_through() ? state.buffer : matrix.weight;
    Tensor current = matrix.weight;
    if (!settings.straight_through() && !search.quantized.has_code_space()) {
        // matrix.weight is of the codebooks before this step's P step, and rounded: at its distance from W as it is now
        // codes would change that no update asks for. (A target in code space is a difference from codes as they are.)
        search.quantized.dequantize(search.ops, search.wanted);
        base = current = search.wanted;
    }
    search.ops.moment_and_score(search.wanted, search.scores, state.second_moment, search.turn.gradient, base, current,
                                search.quantized.group(), v);
    if (settings.narrow_buffer) search.ops.convert_by_chance(state.buffer, search.wanted, ~search.turn.seed);
    if (search.quantized.has_code_space()) {
        search.quantized.target_to_code_space(search.ops, search.target, search.scores, search.wanted, matrix.weight);
        search.quantized.gradient_to_code_space(search.ops, search.turn.gradient);
    }
    search.ops.sum_of_squares(state.score_squares, search.scores);
}

/// Scores become those of each group's most eager change.
void rank_eager_changes(const Search& search, const VState& state, Tensor changes) {
    const VStepSettings v;
    const double decayed =
        std::pow(static_cast<double>(search.settings.code_beta2), static_cast<double>(search.turn.update));
    search.quantized.eager_score(search.ops, search.scores, changes, search.turn.gradient, state.second_moment,
                                 static_cast<float>(1 / (1 - decayed)), v.epsilon);
}

/// Between the nearest and the second-nearest codes, by their distances and chance.
void round_by_chance(const Search& search, const VScratch& scratch) {
    const std::int64_t count = search.selected.elements();
    const Tensor nearest = codes_of(scratch.nearest, search.quantized, count);
    const Tensor distance = scratch.distance.rows(0, count);
    const Tensor nearest_distance = scratch.old_distance.rows(0, count);
    search.quantized.gather_codes(search.ops, nearest, search.selected);
    search.quantized.code_distance(search.ops, nearest_distance, search.target, search.selected);
    search.ops.fill_zero(search.changed);
    search.quantized.assign_different(search.ops, search.changed, search.target, search.selected);
    search.quantized.code_distance(search.ops, distance, search.target, search.selected);
    search.ops.keep_by_chance(search.changed, nearest_distance, distance, search.selected,
                              search.settings.rounding_temperature, search.turn.seed);
    search.quantized.restore_codes(search.ops, nearest, search.selected, search.changed);
    search.quantized.gather_codes(search.ops, nearest, search.selected);
    search.ops.rows_differ(search.changed, nearest, search.saved);
}

/// New codes for the selected groups.
void find_codes(const Search& search, const VScratch& scratch) {
    Ops& ops = search.ops;
    if (search.settings.subspace == Subspace::eager) {
        const Tensor changes = scratch.changes.rows(0, search.quantized.groups());
        return search.quantized.apply_changes(ops, search.changed, changes, search.scores, search.selected);
    }
    const int beam = search.settings.beam > 0 ? search.settings.beam : search.quantized.codes_per_group() > 1 ? 5 : 1;
    search.quantized.assign(ops, search.changed, search.target, search.selected, beam);
    if (search.settings.force_codes) {
        search.quantized.assign_different(ops, search.changed, search.target, search.selected);
    }
    if (search.settings.strategy == Strategy::stochastic_rounding) round_by_chance(search, scratch);
}

/// Takes back what is beyond the budget (of several candidates, those stay that gain most) and the trust ratio.
void bound(const Search& search, const VScratch& scratch, Tensor weight) {
    const std::int64_t count = search.selected.elements();
    const bool within_ratio = search.settings.trust_ratio > 0;
    if (!within_ratio && count <= search.turn.budget) return;
    Ops& ops = search.ops;
    const Tensor distance = scratch.distance.rows(0, count);
    if (search.settings.candidates > 1) {
        search.quantized.code_distance(ops, distance, search.target, search.selected);
        ops.scatter_difference(search.scores, scratch.old_distance.rows(0, count), distance, search.selected);
    }
    if (within_ratio) {
        search.quantized.code_change(ops, distance, search.saved, search.selected);
        ops.sum_of_squares(scratch.weight_squares, weight);
    }
    ops.bound_changes(search.changed, within_ratio ? distance : Tensor{}, search.scores, search.selected,
                      scratch.weight_squares, search.settings.trust_ratio, search.turn.budget);
    search.quantized.restore_codes(ops, search.saved, search.selected, search.changed);
}

void gather_everyone(Ops& ops, const Representation& quantized, Tensor codes, const VScratch& scratch) {
    const Tensor everyone = scratch.everyone.rows(0, quantized.groups());
    ops.round_robin(everyone, 0, quantized.groups());
    quantized.gather_codes(ops, codes, everyone);
}

void record(const Search& search, const VState& state, const VScratch& scratch) {
    Ops& ops = search.ops;
    ops.count_flags(state.changed, search.changed);
    const Tensor product = scratch.distance.rows(0, search.selected.elements());
    search.quantized.code_product(ops, product, search.turn.gradient, search.saved, search.selected);
    ops.sum(state.predicted, product);
    if (state.history.empty()) return;
    gather_everyone(ops, search.quantized, state.now, scratch);
    const std::int64_t groups = search.quantized.groups();
    ops.note_returns(scratch.flags.rows(0, groups), state.history, state.now, state.before,
                     scratch.everyone.rows(0, groups));
    ops.count_flags(state.returned, scratch.flags.rows(0, groups));
}

}  // namespace

VState allocate_v_state(Arena& arena, const Matrix& matrix, const TuneSettings& settings) {
    VState state;
    const std::int64_t shared = moment_group(matrix, settings);
    // bf16 has 8 bits: a smaller share of what is new than this is rounded away, and the moment would stand still.
    const DType moment = settings.code_beta2 <= 0.99F ? matrix.weight.dtype : DType::f32;
    state.second_moment =
        shared == 1 ? arena.allocate("second moment of codes", moment, {matrix.rows, matrix.columns})
                    : arena.allocate("second moment of codes", DType::f32, {matrix.rows, matrix.columns / shared});
    if (settings.straight_through()) {
        state.buffer = arena.allocate("straight-through buffers", settings.narrow_buffer ? DType::bf16 : DType::f32,
                                      {matrix.rows, matrix.columns});
    }
    if (settings.v_every > 1) {
        state.mean_gradient = arena.allocate("mean gradients", DType::f32, {matrix.rows, matrix.columns});
    }
    if (settings.measure_v) {
        const Representation& quantized = *matrix.quantized;
        const auto codes = [&](const char* name) {
            return arena.allocate(name, quantized.code_dtype(), {quantized.groups(), quantized.codes_per_group()});
        };
        state.history = codes("codes of earlier steps");
        state.before = codes("codes around a V step");
        state.now = codes("codes around a V step");
    }
    return state;
}

VScratch allocate_v_scratch(Arena& arena, const Model& model, const TuneSettings& settings) {
    std::int64_t elements = 0;
    std::int64_t groups = 0;
    std::int64_t searched = 0;
    std::int64_t code_bytes = 0;
    bool beside_buffers = !settings.straight_through() || settings.narrow_buffer;
    const std::int64_t total = model_budget(model, settings);
    for (const Block& block : model.blocks) {
        for (const Matrix& matrix : block.matrices) {
            if (!matrix.quantized) continue;
            const std::int64_t own = matrix.quantized->groups();
            elements = std::max(elements, matrix.rows * matrix.columns);
            beside_buffers = beside_buffers || matrix.quantized->has_code_space();
            groups = std::max(groups, own);
            searched = std::max(searched, searched_groups(own, largest_budget(own, total, settings), settings));
            code_bytes =
                std::max(code_bytes, matrix.quantized->codes_per_group() * size_of(matrix.quantized->code_dtype()));
        }
    }
    const auto allocate = [&](DType dtype, std::int64_t count) { return arena.allocate("V step", dtype, {count}); };
    const bool by_chance = settings.subspace == Subspace::sample || settings.subspace == Subspace::random;
    const bool rounding = settings.strategy == Strategy::stochastic_rounding;
    VScratch scratch;
    if (beside_buffers) scratch.target = allocate(DType::f32, elements);
    scratch.scores = allocate(DType::f32, groups);
    if (by_chance) scratch.keys = allocate(DType::f32, groups);
    if (settings.subspace == Subspace::eager) scratch.changes = allocate(DType::u32, groups);
    if (settings.measure_v) scratch.everyone = allocate(DType::u32, groups);
    if (settings.measure_v) scratch.flags = allocate(DType::u8, groups);
    scratch.selected = allocate(DType::u32, searched);
    scratch.changed = allocate(DType::u8, searched);
    scratch.saved = allocate(DType::u8, searched * code_bytes);
    if (rounding) scratch.nearest = allocate(DType::u8, searched * code_bytes);
    scratch.distance = allocate(DType::f32, searched);
    if (rounding || settings.candidates > 1) scratch.old_distance = allocate(DType::f32, searched);
    if (settings.trust_ratio > 0) scratch.weight_squares = allocate(DType::f64, 1);
    return scratch;
}

void start_v_state(Ops& ops, const Matrix& matrix, const VState& state, const VScratch& scratch) {
    if (!state.buffer.empty()) matrix.quantized->dequantize(ops, state.buffer);
    if (!state.mean_gradient.empty()) ops.fill_zero(state.mean_gradient);
    if (!state.history.empty()) gather_everyone(ops, *matrix.quantized, state.history, scratch);
}

void v_step(Ops& ops, Matrix& matrix, const VState& state, const VScratch& scratch, const TuneSettings& settings,
            const VTurn& turn) {
    Representation& quantized = *matrix.quantized;
    const std::int64_t groups = quantized.groups();
    const std::int64_t searched = searched_groups(groups, turn.budget, settings);
    const bool of_buffer = settings.straight_through() && !settings.narrow_buffer;
    const Tensor wanted = of_buffer ? state.buffer : as_matrix(scratch.target, matrix);
    const Search search{ops,
                        quantized,
                        settings,
                        turn,
                        wanted,
                        quantized.has_code_space() ? as_matrix(scratch.target, matrix) : wanted,
                        scratch.scores.rows(0, groups),
                        scratch.selected.rows(0, searched),
                        scratch.changed.rows(0, searched),
                        codes_of(scratch.saved, quantized, searched)};
    if (!state.before.empty()) gather_everyone(ops, quantized, state.before, scratch);
    set_target(search, matrix, state);
    if (!state.histogram.empty()) ops.score_histogram(state.histogram, search.scores);
    if (settings.subspace == Subspace::eager) rank_eager_changes(search, state, scratch.changes.rows(0, groups));
    choose_groups(ops, search.selected, scratch.keys.empty() ? Tensor{} : scratch.keys.rows(0, groups), search.scores,
                  settings, turn.update, turn.seed);
    quantized.gather_codes(ops, search.saved, search.selected);
    if (settings.candidates > 1) {
        quantized.code_distance(ops, scratch.old_distance.rows(0, searched), search.target, search.selected);
    }
    find_codes(search, scratch);
    bound(search, scratch, matrix.weight);
    record(search, state, scratch);
}

}  // namespace pvtune
