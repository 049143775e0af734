// Losses of a chunk of tokens over the whole vocabulary.
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
}

}  // namespace pvtune
