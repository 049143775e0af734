// Matrix products at the block's largest matrix, and that of the output head.
#include "host/bench/linear_operands.h"

#include <algorithm>

namespace pvtune {

BenchCall linear_call(const BenchSetting& setting, const LinearOperands& operands, std::function<void()> run) {
    const double rows = static_cast<double>(operands.in.dim(0));
    return {std::move(run), bytes_of({operands.in, operands.weight, operands.out}),
            2 * rows * static_cast<double>(operands.weight.elements()), setting.precision};
}

LinearOperands linear_operands(Operands& operands, const BenchSetting& setting, std::int64_t rows) {
    const BenchShape& s = setting.shape;
    return {operands.random(setting.precision, {rows, s.width}),
            operands.random(setting.precision, {s.intermediate, s.width}),
            operands.random(setting.precision, {rows, s.intermediate})};
}

void add_linear_entries(Registry& registry, const BenchSetting& setting) {
    const BenchShape s = setting.shape;
    const auto add = [&](const char* op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };
    const auto add_forward = [&](const char* op, std::int64_t rows) {
        add(op, [=](Operands& operands) {
            const LinearOperands a = linear_operands(operands, setting, rows);
            return linear_call(setting, a, [=] { setting.ops().linear_forward(a.out, a.in, a.weight, {}); });
        });
    };

    add_forward("linear_forward", s.tokens());
    add("linear_forward_bias", [=](Operands& operands) {
        const LinearOperands a = linear_operands(operands, setting, s.tokens());
        const Tensor bias = operands.random(DType::f32, {s.intermediate});
        BenchCall call = linear_call(setting, a, [=] { setting.ops().linear_forward(a.out, a.in, a.weight, bias); });
        call.bytes += bytes_of({bias});
        return call;
    });
    add_forward("linear_forward_one_token", 1);
    add("linear_forward_logits", [=](Operands& operands) {
        const std::int64_t rows = std::min(head_rows, s.tokens());
        const LinearOperands a{operands.random(setting.precision, {rows, s.width}),
                               operands.random(setting.precision, {s.vocabulary, s.width}),
                               operands.fresh(DType::f32, {rows, s.vocabulary})};
        return linear_call(setting, a, [=] { setting.ops().linear_forward(a.out, a.in, a.weight, {}); });
    });
    add("linear_backward_input", [=](Operands& operands) {
        const LinearOperands a = linear_operands(operands, setting, s.tokens());
        return linear_call(setting, a, [=] { setting.ops().linear_backward_input(a.in, a.out, a.weight, false); });
    });
    add("linear_backward_weight", [=](Operands& operands) {
        LinearOperands a = linear_operands(operands, setting, s.tokens());
        a.weight = operands.fresh(DType::f32, {s.intermediate, s.width});
        return linear_call(setting, a, [=] { setting.ops().linear_backward_weight(a.weight, a.out, a.in, false); });
    });
}

}  // namespace pvtune
