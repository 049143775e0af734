// Losses: of a chunk of tokens over the whole vocabulary, and of a block's hidden states.
#include "host/bench/linear_operands.h"

#include <algorithm>

namespace pvtune {

void add_loss_entries(Registry& registry, const BenchSetting& setting) {
    const std::int64_t vocabulary = setting.shape.vocabulary;
    const std::int64_t rows = std::min(head_rows, setting.shape.tokens());
    const auto add = [&](const char* op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };
    add("kl_loss", [=](Operands& operands) -> BenchCall {
        const Tensor logits = operands.random(DType::f32, {rows, vocabulary});
        const Tensor teacher = operands.random(DType::f32, {rows, vocabulary});
        const Tensor d_logits = operands.fresh(setting.precision, {rows, vocabulary});
        const Tensor loss = operands.fresh(DType::f32, {rows});
        return {[=] { setting.ops().kl_loss(loss, d_logits, logits, teacher, 1); },
                bytes_of({logits, teacher, d_logits, loss})};
    });
    add("cross_entropy_loss", [=](Operands& operands) -> BenchCall {
        const Tensor logits = operands.random(DType::f32, {rows, vocabulary});
        const Tensor targets = operands.integers(DType::u32, {rows}, vocabulary);
        const Tensor d_logits = operands.fresh(setting.precision, {rows, vocabulary});
        const Tensor loss = operands.fresh(DType::f32, {rows});
        return {[=] { setting.ops().cross_entropy_loss(loss, d_logits, logits, targets, 1); },
                bytes_of({logits, targets, d_logits, loss})};
    });
    add("cross_entropy_loss_eval", [=](Operands& operands) -> BenchCall {
        const Tensor logits = operands.random(DType::f32, {rows, vocabulary});
        const Tensor targets = operands.integers(DType::u32, {rows}, vocabulary);
        const Tensor loss = operands.fresh(DType::f32, {rows});
        return {[=] { setting.ops().cross_entropy_loss(loss, {}, logits, targets, 1); },
                bytes_of({logits, targets, loss})};
    });
    add("mse_loss", [=](Operands& operands) -> BenchCall {
        const std::int64_t tokens = setting.shape.tokens();
        // A row lies between the two, so that they are not the same numbers.
        const Tensor both = operands.random(setting.precision, {2 * tokens + 1, setting.shape.width});
        const Tensor out = both.rows(0, tokens);
        const Tensor target = both.rows(tokens + 1, tokens);
        const Tensor d_out = operands.fresh(setting.precision, {tokens, setting.shape.width});
        const Tensor losses = operands.fresh(DType::f32, {tokens});
        return {[=] { setting.ops().mse_loss(losses, d_out, out, target, 1); }, bytes_of({out, target, d_out, losses})};
    });
}

}  // namespace pvtune
