// Operations of a block and the embedding that memory limits.
#include "host/bench/registry.h"

#include <algorithm>
#include <string>

namespace pvtune {

void add_model_entries(Registry& registry, const BenchSetting& setting) {
    const BenchShape s = setting.shape;
    const DType precision = setting.precision;
    const auto add = [&](const std::string& op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };

    add("embedding_forward", [=](Operands& operands) -> BenchCall {
        const Tensor table = operands.random(precision, {s.vocabulary, s.width});
        const Tensor tokens = operands.scattered(s.tokens(), s.vocabulary);
        const Tensor hidden = operands.fresh(precision, {s.tokens(), s.width});
        return {[=] { setting.ops().embedding_forward(hidden, table, tokens); }, bytes_of({tokens, hidden, hidden})};
    });
    add("embedding_backward", [=](Operands& operands) -> BenchCall {
        const Tensor d_table = operands.zeros(DType::f32, {s.vocabulary, s.width});
        const Tensor tokens = operands.scattered(s.tokens(), s.vocabulary);
        const Tensor d_hidden = operands.random(precision, {s.tokens(), s.width});
        const Tensor touched = d_table.rows(0, std::min(s.tokens(), s.vocabulary));
        return {[=] { setting.ops().embedding_backward(d_table, d_hidden, tokens); },
                bytes_of({tokens, d_hidden, touched, touched})};
    });

    add("rmsnorm_forward", [=](Operands& operands) -> BenchCall {
        const Tensor in = operands.random(precision, {s.tokens(), s.width});
        const Tensor weight = operands.random(DType::f32, {s.width});
        const Tensor out = operands.fresh(precision, {s.tokens(), s.width});
        const Tensor inverse_rms = operands.fresh(DType::f32, {s.tokens()});
        return {[=] { setting.ops().rmsnorm_forward(out, inverse_rms, in, weight, 1e-5F); },
                bytes_of({in, weight, out, inverse_rms})};
    });
    add("rmsnorm_backward", [=](Operands& operands) -> BenchCall {
        const Tensor in = operands.random(precision, {s.tokens(), s.width});
        const Tensor d_out = operands.random(precision, {s.tokens(), s.width});
        const Tensor d_in = operands.zeros(precision, {s.tokens(), s.width});
        const Tensor weight = operands.random(DType::f32, {s.width});
        const Tensor d_weight = operands.zeros(DType::f32, {s.width});
        const Tensor inverse_rms = operands.random(DType::f32, {s.tokens()});
        return {[=] { setting.ops().rmsnorm_backward(d_in, d_weight, d_out, in, weight, inverse_rms); },
                bytes_of({in, d_out, d_in, d_in, weight, d_weight, d_weight, inverse_rms})};
    });

    const auto add_rope = [&](const char* op, void (Ops::*rotate)(Tensor, Tensor, Tensor)) {
        add(op, [=](Operands& operands) -> BenchCall {
            const Tensor heads = operands.random(precision, {s.tokens(), s.heads, s.head_dim});
            // Quarter turns: heads that are turned again and again keep their size.
            const Tensor cosines = operands.constant(0, {s.length, s.head_dim / 2});
            const Tensor sines = operands.constant(1, {s.length, s.head_dim / 2});
            return {[=] { (setting.ops().*rotate)(heads, cosines, sines); }, bytes_of({heads, heads, cosines, sines})};
        });
    };
    add_rope("rope_forward", &Ops::rope_forward);
    add_rope("rope_backward", &Ops::rope_backward);

    const auto add_gated = [=](const std::string& name, void (Ops::*forward)(Tensor, Tensor, Tensor),
                               void (Ops::*backward)(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)) {
        add(name + "_forward", [=](Operands& operands) -> BenchCall {
            const Tensor gate = operands.random(precision, {s.tokens(), s.intermediate});
            const Tensor up = operands.random(precision, {s.tokens(), s.intermediate});
            const Tensor out = operands.fresh(precision, {s.tokens(), s.intermediate});
            return {[=] { (setting.ops().*forward)(out, gate, up); }, bytes_of({gate, up, out})};
        });
        add(name + "_backward", [=](Operands& operands) -> BenchCall {
            const Tensor gate = operands.random(precision, {s.tokens(), s.intermediate});
            const Tensor up = operands.random(precision, {s.tokens(), s.intermediate});
            const Tensor d_out = operands.random(precision, {s.tokens(), s.intermediate});
            const Tensor out = operands.fresh(precision, {s.tokens(), s.intermediate});
            const Tensor d_gate = operands.fresh(precision, {s.tokens(), s.intermediate});
            const Tensor d_up = operands.fresh(precision, {s.tokens(), s.intermediate});
            return {[=] { (setting.ops().*backward)(d_gate, d_up, out, d_out, gate, up); },
                    bytes_of({gate, up, d_out, out, d_gate, d_up})};
        });
    };
    add_gated("swiglu", &Ops::swiglu_forward, &Ops::swiglu_backward);
    add_gated("geglu", &Ops::geglu_forward, &Ops::geglu_backward);

    add("soft_cap_forward", [=](Operands& operands) -> BenchCall {
        const Tensor logits = operands.random(DType::f32, {std::min<std::int64_t>(256, s.tokens()), s.vocabulary});
        return {[=] { setting.ops().soft_cap_forward(logits, 30.0F); }, bytes_of({logits, logits})};
    });
    add("soft_cap_backward", [=](Operands& operands) -> BenchCall {
        const std::int64_t rows = std::min<std::int64_t>(256, s.tokens());
        const Tensor logits = operands.random(DType::f32, {rows, s.vocabulary});
        const Tensor d_logits = operands.random(precision, {rows, s.vocabulary});
        return {[=] { setting.ops().soft_cap_backward(d_logits, logits, 30.0F); },
                bytes_of({logits, d_logits, d_logits})};
    });
    add("scale", [=](Operands& operands) -> BenchCall {
        const Tensor hidden = operands.random(precision, {s.tokens(), s.width});
        return {[=] { setting.ops().scale(hidden, 1.0F); }, bytes_of({hidden, hidden})};
    });
    add("add", [=](Operands& operands) -> BenchCall {
        const Tensor a = operands.random(precision, {s.tokens(), s.width});
        const Tensor b = operands.random(precision, {s.tokens(), s.width});
        const Tensor out = operands.fresh(precision, {s.tokens(), s.width});
        return {[=] { setting.ops().add(out, a, b); }, bytes_of({a, b, out})};
    });
    add("add_scaled", [=](Operands& operands) -> BenchCall {
        const Tensor out = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor in = operands.random(DType::f32, {s.intermediate, s.width});
        // So small a factor that values stay in range over hundreds of calls.
        return {[=] { setting.ops().add_scaled(out, in, 1e-3F); }, bytes_of({out, in, out})};
    });
    add("convert", [=](Operands& operands) -> BenchCall {
        const Tensor in = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor out = operands.fresh(DType::bf16, {s.intermediate, s.width});
        return {[=] { setting.ops().convert(out, in); }, bytes_of({in, out})};
    });
    add("convert_by_chance", [=](Operands& operands) -> BenchCall {
        const Tensor in = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor out = operands.fresh(DType::bf16, {s.intermediate, s.width});
        return {[=] { setting.ops().convert_by_chance(out, in, 1); }, bytes_of({in, out})};
    });
    add("fill_zero", [=](Operands& operands) -> BenchCall {
        const Tensor out = operands.fresh(DType::f32, {s.intermediate, s.width});
        return {[=] { setting.ops().fill_zero(out); }, bytes_of({out})};
    });
    add("column_sum", [=](Operands& operands) -> BenchCall {
        const Tensor d_out = operands.random(precision, {s.tokens(), s.width});
        const Tensor d_bias = operands.zeros(DType::f32, {s.width});
        return {[=] { setting.ops().column_sum(d_bias, d_out); }, bytes_of({d_out, d_bias, d_bias})};
    });
}

}  // namespace pvtune
