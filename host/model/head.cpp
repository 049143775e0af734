#include "host/model/head.h"

#include <algorithm>

namespace pvtune {

namespace {

/// Tokens whose logits exist at once: enough for efficient products (the head's gradient is read and written once a
/// chunk), few enough to stay far from tokens x vocabulary.
constexpr std::int64_t chunk_tokens = 256;

void final_norm(Ops& ops, const Model& model, const HeadBuffers& buffers, Tensor to, Tensor hidden) {
    ops.rmsnorm_forward(to, buffers.inverse_rms.reshaped({buffers.inverse_rms.elements()}).rows(0, hidden.dim(0)),
                        hidden, model.final_norm, static_cast<float>(model.config.rms_epsilon));
}

/// Logits of normed rows.
void project(Ops& ops, const Model& model, Tensor to, Tensor normed) {
    ops.linear_forward(to, normed, model.head, {});
    if (model.config.logit_cap > 0) ops.soft_cap_forward(to, static_cast<float>(model.config.logit_cap));
}

/// From d_logits of rows [first, first + count) to the head's gradient and d_normed.
void head_backward(Ops& ops, const Model& model, const HeadBuffers& buffers, const HeadGradients& gradients,
                   std::int64_t first, std::int64_t count) {
    const Tensor d_logits = buffers.d_logits.rows(0, count);
    if (model.config.logit_cap > 0) {
        ops.soft_cap_backward(d_logits, buffers.logits.rows(0, count), static_cast<float>(model.config.logit_cap));
    }
    if (!gradients.head.empty()) {
        ops.linear_backward_weight(gradients.head, d_logits, buffers.normed.rows(first, count), true);
    }
    ops.linear_backward_input(buffers.d_normed.rows(first, count), d_logits, model.head, false);
}

void norm_backward(Ops& ops, const Model& model, const HeadBuffers& buffers, const HeadGradients& gradients,
                   Tensor d_hidden, Tensor hidden) {
    ops.fill_zero(d_hidden);
    ops.rmsnorm_backward(d_hidden, gradients.final_norm, buffers.d_normed, hidden, model.final_norm,
                         buffers.inverse_rms);
}

}  // namespace

HeadBuffers allocate_head(Arena& arena, const ModelConfig& config, DType precision, const Batch& batch, HeadUse use) {
    const std::int64_t tokens = batch.tokens();
    HeadBuffers buffers;
    buffers.chunk = std::min(chunk_tokens, tokens);
    const auto rows = [&](DType dtype) { return arena.allocate("head buffers", dtype, {tokens, config.width}); };
    const auto chunk = [&](DType dtype) {
        return arena.allocate("logits of a chunk", dtype, {buffers.chunk, config.vocabulary});
    };
    buffers.normed = rows(precision);
    buffers.inverse_rms = arena.allocate("head buffers", DType::f32, {tokens});
    buffers.losses = arena.allocate("head buffers", DType::f32, {tokens});
    buffers.logits = chunk(DType::f32);
    if (use == HeadUse::distill) {
        buffers.d_logits = chunk(precision);
        buffers.d_normed = rows(precision);
        buffers.teacher_normed = rows(precision);
        buffers.teacher_logits = chunk(DType::f32);
    }
    return buffers;
}

void cross_entropy(Ops& ops, const Model& model, const HeadBuffers& buffers, Tensor hidden, Tensor targets,
                   Tensor d_hidden, const HeadGradients& gradients, float scale) {
    final_norm(ops, model, buffers, buffers.normed, hidden);
    const std::int64_t tokens = hidden.dim(0);
    for (std::int64_t first = 0; first < tokens; first += buffers.chunk) {
        const std::int64_t count = std::min(buffers.chunk, tokens - first);
        const Tensor rows = buffers.logits.rows(0, count);
        project(ops, model, rows, buffers.normed.rows(first, count));
        ops.cross_entropy_loss(buffers.losses.rows(first, count),
                               d_hidden.empty() ? Tensor{} : buffers.d_logits.rows(0, count), rows,
                               targets.rows(first, count), scale);
        if (!d_hidden.empty()) head_backward(ops, model, buffers, gradients, first, count);
    }
    if (!d_hidden.empty()) norm_backward(ops, model, buffers, gradients, d_hidden, hidden);
}

void distill(Ops& ops, const Model& model, const Model& teacher, const HeadBuffers& buffers, Tensor hidden,
             Tensor teacher_hidden, Tensor d_hidden, const HeadGradients& gradients, float scale) {
    final_norm(ops, teacher, buffers, buffers.teacher_normed, teacher_hidden);
    final_norm(ops, model, buffers, buffers.normed, hidden);
    const std::int64_t tokens = hidden.dim(0);
    for (std::int64_t first = 0; first < tokens; first += buffers.chunk) {
        const std::int64_t count = std::min(buffers.chunk, tokens - first);
        const Tensor rows = buffers.logits.rows(0, count);
        const Tensor teacher_rows = buffers.teacher_logits.rows(0, count);
        project(ops, teacher, teacher_rows, buffers.teacher_normed.rows(first, count));
        project(ops, model, rows, buffers.normed.rows(first, count));
        ops.kl_loss(buffers.losses.rows(first, count), buffers.d_logits.rows(0, count), rows, teacher_rows, scale);
        head_backward(ops, model, buffers, gradients, first, count);
    }
    norm_backward(ops, model, buffers, gradients, d_hidden, hidden);
}

void logits(Ops& ops, const Model& model, const HeadBuffers& buffers, Tensor out, Tensor hidden) {
    const Tensor normed = buffers.normed.rows(0, hidden.dim(0));
    final_norm(ops, model, buffers, normed, hidden);
    project(ops, model, out, normed);
}

}  // namespace pvtune
