// Operations on scalar grids: over a whole matrix, and for the weights that a V step chooses.
#include "host/bench/additive_operands.h"

namespace pvtune {

ScalarCodes scalar_matrix(Operands& operands, const BenchShape& shape) {
    constexpr std::int64_t group = 128;
    constexpr std::int64_t levels = 8;  // 3 bits
    const std::int64_t grids = (shape.width + group - 1) / group;
    return {operands.integers(DType::u8, {shape.intermediate, shape.width}, levels),
            operands.constant(0.25F, {shape.intermediate, grids}), operands.constant(3.5F, {shape.intermediate, grids}),
            group, levels};
}

namespace {

using AddEntry = std::function<void(const char* op, std::function<BenchCall(Operands&)> make)>;

void add_matrix_entries(const AddEntry& add, const BenchSetting& setting) {
    const BenchShape s = setting.shape;
    add("dequantize_scalar", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const Tensor weight = operands.fresh(setting.precision, {s.intermediate, s.width});
        return {[=] { setting.ops().dequantize_scalar(weight, matrix); },
                bytes_of({matrix.codes, matrix.scales, matrix.zeros, weight})};
    });
    add("linear_from_scalar", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const Tensor in = operands.random(setting.precision, {1, s.width});
        const Tensor out = operands.fresh(setting.precision, {1, s.intermediate});
        return {[=] { setting.ops().linear_from_scalar(out, in, matrix, {}); },
                bytes_of({matrix.codes, matrix.scales, matrix.zeros, in, out}),
                2 * static_cast<double>(s.intermediate * s.width), setting.precision};
    });
    add("scalar_gradient", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const Tensor d_weight = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor d_scales = operands.fresh(DType::f32, {s.intermediate, matrix.scales.dim(1)});
        const Tensor d_zeros = operands.fresh(DType::f32, {s.intermediate, matrix.scales.dim(1)});
        return {[=] { setting.ops().scalar_gradient(d_scales, d_zeros, d_weight, matrix); },
                bytes_of({matrix.codes, matrix.scales, d_weight, d_scales, d_zeros})};
    });
    add("scalar_eager_score", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const Tensor gradient = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor moment = operands.zeros(setting.precision, {s.intermediate, s.width});
        const Tensor scores = operands.fresh(DType::f32, {s.intermediate * s.width});
        const Tensor changes = operands.fresh(DType::u32, {s.intermediate * s.width});
        return {[=] { setting.ops().scalar_eager_score(scores, changes, matrix, gradient, moment, 1, 1e-8F); },
                bytes_of({matrix.codes, matrix.scales, gradient, moment, scores, changes})};
    });
}

/// A matrix, what its chosen weights are held against (a target or a gradient), and their codes before.
struct Chosen {
    ScalarCodes matrix;
    Tensor values, weights, saved;
};

std::int64_t chosen_weights(const BenchShape& shape) { return additive_group * chosen_count(shape); }

Chosen choose(Operands& operands, const BenchShape& shape) {
    const std::int64_t count = chosen_weights(shape);
    const ScalarCodes matrix = scalar_matrix(operands, shape);
    return {matrix, operands.random(DType::f32, {shape.intermediate, shape.width}),
            operands.ascending(count, shape.intermediate * shape.width),
            operands.integers(DType::u8, {count, 1}, matrix.levels)};
}

void add_chosen_entries(const AddEntry& add, const BenchSetting& setting) {
    const BenchShape s = setting.shape;
    const std::int64_t count = chosen_weights(s);
    // Of every chosen weight: so many floats of its grid and what it is held against.
    const auto floats = [=](std::int64_t each) { return static_cast<double>(count * each * size_of(DType::f32)); };
    add("assign_scalar", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const Tensor target = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor weights = operands.ascending(count, s.intermediate * s.width);
        const Tensor changed = operands.fresh(DType::u8, {count});
        // A code is read and written, a target and its grid read.
        const double chosen_bytes = static_cast<double>(count * 2) + floats(3);
        return {[=] { setting.ops().assign_scalar(matrix, changed, target, weights); },
                chosen_bytes + bytes_of({weights, changed})};
    });
    add("scalar_different", [=](Operands& operands) -> BenchCall {
        const Chosen chosen = choose(operands, s);
        const Tensor changed = operands.fresh(DType::u8, {count});
        return {[=] { setting.ops().scalar_different(chosen.matrix, changed, chosen.values, chosen.weights); },
                floats(3) + bytes_of({chosen.weights, chosen.saved, chosen.saved, changed, changed}), 0, DType::f32,
                [=] { setting.ops().fill_zero(changed); }};
    });
    add("scalar_change", [=](Operands& operands) -> BenchCall {
        const Chosen chosen = choose(operands, s);
        const Tensor change = operands.fresh(DType::f32, {count});
        return {[=] { setting.ops().scalar_change(change, chosen.matrix, chosen.saved, chosen.weights); },
                floats(1) + bytes_of({chosen.weights, chosen.saved, chosen.saved, change})};
    });
    add("scalar_product", [=](Operands& operands) -> BenchCall {
        const Chosen chosen = choose(operands, s);
        const Tensor product = operands.fresh(DType::f32, {count});
        return {
            [=] { setting.ops().scalar_product(product, chosen.matrix, chosen.values, chosen.saved, chosen.weights); },
            floats(2) + bytes_of({chosen.weights, chosen.saved, chosen.saved, product})};
    });
    add("scalar_distance", [=](Operands& operands) -> BenchCall {
        const Chosen chosen = choose(operands, s);
        const Tensor distance = operands.fresh(DType::f32, {count});
        return {[=] { setting.ops().scalar_distance(distance, chosen.matrix, chosen.values, chosen.weights); },
                floats(3) + bytes_of({chosen.weights, chosen.saved, distance})};
    });
}

}  // namespace

void add_scalar_entries(Registry& registry, const BenchSetting& setting) {
    const auto add = [&](const char* op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };
    add_matrix_entries(add, setting);
    add_chosen_entries(add, setting);
}

}  // namespace pvtune
