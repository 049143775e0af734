#include "host/bench/attention_operands.h"

namespace pvtune {

namespace {

/// Two products over the pairs of tokens that see each other, half of length x length: as flash attention counts.
double forward_flops(const AttentionShape& s) {
    return 2 * static_cast<double>(s.sequences * s.length) * static_cast<double>(s.length * s.heads * s.head_dim);
}

/// Five products where the forward pass has two: the scores are computed again.
constexpr double backward_products = 2.5;

}  // namespace

AttentionOperands attention_operands(Operands& operands, const BenchSetting& setting, bool backward) {
    const BenchShape& s = setting.shape;
    const auto query = [&] { return operands.random(setting.precision, {s.tokens(), s.heads, s.head_dim}); };
    const auto key = [&] { return operands.random(setting.precision, {s.tokens(), s.kv_heads, s.head_dim}); };
    AttentionOperands a;
    a.shape = {s.sequences, s.length, s.heads, s.kv_heads, s.head_dim, 0};
    a.q = query();
    a.k = key();
    a.v = key();
    a.out = query();
    a.log_sum_exp = operands.fresh(DType::f32, {s.heads, s.tokens()});
    if (!backward) return a;
    a.d_q = query();
    a.d_k = key();
    a.d_v = key();
    a.d_out = query();
    return a;
}

BenchCall attention_forward_call(const BenchSetting& setting, const AttentionOperands& a, std::function<void()> run) {
    return {std::move(run), bytes_of({a.q, a.k, a.v, a.out, a.log_sum_exp}), forward_flops(a.shape), setting.precision};
}

BenchCall attention_backward_call(const BenchSetting& setting, const AttentionOperands& a, std::function<void()> run) {
    return {std::move(run), bytes_of({a.q, a.k, a.v, a.out, a.log_sum_exp, a.d_q, a.d_k, a.d_v, a.d_out}),
            backward_products * forward_flops(a.shape), setting.precision,
            [=] { setting.ops().attention_forward(a.out, a.log_sum_exp, a.q, a.k, a.v, a.shape); }};
}

void add_attention_entries(Registry& registry, const BenchSetting& setting) {
    const auto add = [&](const char* op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };
    add("attention_forward", [=](Operands& operands) {
        const AttentionOperands a = attention_operands(operands, setting, false);
        return attention_forward_call(
            setting, a, [=] { setting.ops().attention_forward(a.out, a.log_sum_exp, a.q, a.k, a.v, a.shape); });
    });
    add("attention_backward", [=](Operands& operands) {
        const AttentionOperands a = attention_operands(operands, setting, true);
        return attention_backward_call(setting, a, [=] {
            setting.ops().attention_backward(a.d_q, a.d_k, a.d_v, a.d_out, a.out, a.log_sum_exp, a.q, a.k, a.v,
                                             a.shape);
        });
    });
    add("attention_decode", [=](Operands& operands) -> BenchCall {
        const BenchShape& s = setting.shape;
        const Tensor q = operands.random(setting.precision, {s.heads, s.head_dim});
        const Tensor out = operands.fresh(setting.precision, {s.heads, s.head_dim});
        const Tensor keys = operands.random(setting.precision, {s.length, s.kv_heads, s.head_dim});
        const Tensor values = operands.random(setting.precision, {s.length, s.kv_heads, s.head_dim});
        const AttentionShape shape{1, s.length, s.heads, s.kv_heads, s.head_dim, 0};
        return {[=] { setting.ops().attention_decode(out, q, keys, values, shape); }, bytes_of({q, out, keys, values}),
                4 * static_cast<double>(s.length * s.heads * s.head_dim), setting.precision};
    });
}

}  // namespace pvtune
