// The P step, and the V step up to the choice of groups, for the block's largest matrix.
//
// Under LAMB both need norms of the whole matrix before they can write, so they must read what the norms are made of a
// second time: that is in their bytes.
#include "host/bench/additive_operands.h"

namespace pvtune {

namespace {
/// So small that values stay what they are over thousands of calls.
constexpr float rate = 1e-7F;
}  // namespace

void add_optimizer_entries(Registry& registry, const BenchSetting& setting) {
    const BenchShape s = setting.shape;
    const auto add = [&](const char* op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };
    add("adam", [=](Operands& operands) -> BenchCall {
        const Tensor value = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor first = operands.zeros(DType::f32, {s.intermediate, s.width});
        const Tensor second = operands.zeros(DType::f32, {s.intermediate, s.width});
        const Tensor gradient = operands.random(DType::f32, {s.intermediate, s.width});
        AdamSettings settings;
        settings.rate = rate;
        // Norms: value, moments, gradient read, moments written; update: value, moments read, value written.
        return {[=] { setting.ops().adam(value, first, second, gradient, {}, {}, settings); },
                bytes_of({value, first, second, gradient, first, second}) + bytes_of({value, first, second, value})};
    });
    add("moment_and_score", [=](Operands& operands) -> BenchCall {
        const Tensor buffer = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor moment = operands.zeros(setting.precision, {s.intermediate, s.width});
        const Tensor d_weight = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor current = operands.random(setting.precision, {s.intermediate, s.width});
        const Tensor scores = operands.fresh(DType::f32, {group_count(s)});
        VStepSettings settings;
        settings.rate = rate;
        // Norms: buffer, moment, gradient read, moment written; scores: buffer, moment, gradient, weight read.
        return {[=] {
                    setting.ops().moment_and_score(buffer, scores, moment, d_weight, buffer, current, additive_group,
                                                   settings);
                },
                bytes_of({buffer, moment, d_weight, moment}) +
                    bytes_of({buffer, moment, d_weight, current, buffer, scores})};
    });
    add("select_largest", [=](Operands& operands) -> BenchCall {
        const Tensor scores = operands.random(DType::f32, {group_count(s)});
        const Tensor indices = operands.fresh(DType::u32, {chosen_count(s)});
        return {[=] { setting.ops().select_largest(indices, scores); }, bytes_of({scores, indices})};
    });
    add("bound_changes", [=](Operands& operands) -> BenchCall {
        const std::int64_t count = chosen_count(s);
        const Tensor keep = operands.integers(DType::u8, {count}, 2);
        const Tensor change = operands.constant(1, {count});
        const Tensor scores = operands.random(DType::f32, {group_count(s)});
        const Tensor groups = operands.ascending(count, group_count(s));
        const Tensor weight_squares = operands.zeros(DType::f64, {1});
        // Changes of 1 against |weight|^2 = count and a ratio whose square is a half: half of them are kept.
        constexpr double trust_ratio = 0.70710678;
        return {[=] {
                    setting.ops().bound_changes(keep, change, scores, groups, weight_squares, trust_ratio,
                                                groups.elements());
                },
                bytes_of({keep, keep, change, change, groups}), 0, DType::f32,
                [=] { setting.ops().sum_of_squares(weight_squares, change); }};
    });
    add("sum_of_squares", [=](Operands& operands) -> BenchCall {
        const Tensor values = operands.random(setting.precision, {s.intermediate, s.width});
        const Tensor sum = operands.fresh(DType::f64, {1});
        return {[=] { setting.ops().sum_of_squares(sum, values); }, bytes_of({values, sum})};
    });
    add("sum", [=](Operands& operands) -> BenchCall {
        const Tensor values = operands.random(DType::f32, {chosen_count(s)});
        const Tensor total = operands.fresh(DType::f64, {1});
        return {[=] { setting.ops().sum(total, values); }, bytes_of({values, total})};
    });
    add("count_flags", [=](Operands& operands) -> BenchCall {
        const Tensor flags = operands.integers(DType::u8, {chosen_count(s)}, 2);
        const Tensor total = operands.fresh(DType::u32, {1});
        return {[=] { setting.ops().count_flags(total, flags); }, bytes_of({flags, total})};
    });
}

}  // namespace pvtune
