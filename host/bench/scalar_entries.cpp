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

void add_scalar_entries(Registry& registry, const BenchSetting& setting) {
    const BenchShape s = setting.shape;
    const auto add = [&](const char* op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };
    add("dequantize_scalar", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const Tensor weight = operands.fresh(setting.precision, {s.intermediate, s.width});
        return {[=] { setting.ops().dequantize_scalar(weight, matrix); },
                bytes_of({matrix.codes, matrix.scales, matrix.zeros, weight})};
    });
    add("scalar_gradient", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const Tensor d_weight = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor d_scales = operands.fresh(DType::f32, {s.intermediate, matrix.scales.dim(1)});
        const Tensor d_zeros = operands.fresh(DType::f32, {s.intermediate, matrix.scales.dim(1)});
        return {[=] { setting.ops().scalar_gradient(d_scales, d_zeros, d_weight, matrix); },
                bytes_of({matrix.codes, matrix.scales, d_weight, d_scales, d_zeros})};
    });
    add("assign_scalar", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const std::int64_t count = additive_group * chosen_count(s);
        const Tensor target = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor weights = operands.ascending(count, s.intermediate * s.width);
        const Tensor changed = operands.fresh(DType::u8, {count});
        // A code is read and written, a target and its grid read.
        const double chosen_bytes = static_cast<double>(count * (2 + 3 * size_of(DType::f32)));
        return {[=] { setting.ops().assign_scalar(matrix, changed, target, weights); },
                chosen_bytes + bytes_of({weights, changed})};
    });
}

}  // namespace pvtune
