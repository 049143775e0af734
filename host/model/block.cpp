#include "host/model/block.h"

namespace pvtune {

namespace {

AttentionShape attention_shape(const ModelConfig& config, const Batch& batch) {
    return {batch.sequences, batch.length, config.heads, config.kv_heads, config.head_dim, config.window};
}

Tensor as_heads(Tensor rows, std::int64_t heads, std::int64_t head_dim) {
    return rows.reshaped({rows.dim(0), heads, head_dim});
}

}  // namespace

BlockActivations allocate_activations(Arena& arena, const ModelConfig& config, DType precision, const Batch& batch,
                                      const BlockActivations* shared) {
    const std::int64_t tokens = batch.tokens();
    const auto rows = [&](std::int64_t width) { return arena.allocate("activations", precision, {tokens, width}); };
    const auto statistics = [&](std::int64_t count) {
        return arena.allocate("activations", DType::f32, {count, tokens});
    };
    BlockActivations a;
    a.attention_inverse_rms = statistics(1);
    a.q = rows(config.heads * config.head_dim);
    a.k = rows(config.kv_heads * config.head_dim);
    a.v = rows(config.kv_heads * config.head_dim);
    a.attention = rows(config.heads * config.head_dim);
    a.log_sum_exp = statistics(config.heads);
    a.middle = rows(config.width);
    a.mlp_inverse_rms = statistics(1);
    a.gate = rows(config.intermediate);
    a.up = rows(config.intermediate);
    a.normed = shared ? shared->normed : rows(config.width);
    a.activated = shared ? shared->activated : rows(config.intermediate);
    return a;
}

BlockActivations first_rows(const BlockActivations& activations, const ModelConfig& config, const Batch& batch) {
    const std::int64_t tokens = batch.tokens();
    BlockActivations part = activations;
    for (Tensor* rows : {&part.q, &part.k, &part.v, &part.attention, &part.middle, &part.gate, &part.up, &part.normed,
                         &part.activated}) {
        *rows = rows->rows(0, tokens);
    }
    part.attention_inverse_rms = Tensor(part.attention_inverse_rms.data, DType::f32, {1, tokens});
    part.mlp_inverse_rms = Tensor(part.mlp_inverse_rms.data, DType::f32, {1, tokens});
    part.log_sum_exp = Tensor(part.log_sum_exp.data, DType::f32, {config.heads, tokens});
    return part;
}

BlockGradients allocate_gradients(Arena& arena, const Model& model) {
    const Block& block = model.blocks.front();
    BlockGradients gradients;
    gradients.attention_norm = arena.allocate("block gradients", DType::f32, {model.config.width});
    gradients.mlp_norm = arena.allocate("block gradients", DType::f32, {model.config.width});
    for (std::size_t i = 0; i < matrices_per_block; ++i) {
        const Matrix& matrix = block.matrices[i];
        gradients.weights[i] = arena.allocate("block gradients", DType::f32, {matrix.rows, matrix.columns});
        if (!matrix.bias.empty()) gradients.biases[i] = arena.allocate("block gradients", DType::f32, {matrix.rows});
    }
    return gradients;
}

BackwardBuffers allocate_backward(Arena& arena, const ModelConfig& config, DType precision, const Batch& batch) {
    const auto rows = [&](std::int64_t width) {
        return arena.allocate("backward buffers", precision, {batch.tokens(), width});
    };
    BackwardBuffers buffers;
    buffers.d_activated = rows(config.intermediate);
    buffers.d_attention = rows(config.heads * config.head_dim);
    buffers.d_q = rows(config.heads * config.head_dim);
    buffers.d_k = rows(config.kv_heads * config.head_dim);
    buffers.d_v = rows(config.kv_heads * config.head_dim);
    buffers.d_normed = rows(config.width);
    return buffers;
}

void block_forward(Ops& ops, const Model& model, const Block& block, Tensor out, Tensor in, const BlockActivations& a,
                   const Batch& batch, const InputObserver& observe) {
    const ModelConfig& config = model.config;
    const auto seen = [&](MatrixIndex index, Tensor inputs) {
        if (observe) observe(index, inputs);
    };
    const auto linear = [&](Tensor to, Tensor from, MatrixIndex index) {
        ops.linear_forward(to, from, block.matrices[index].weight, block.matrices[index].bias);
    };
    const auto epsilon = static_cast<float>(config.rms_epsilon);
    const Tensor cosines = model.cosines.rows(0, batch.length);
    const Tensor sines = model.sines.rows(0, batch.length);
    const Tensor q = as_heads(a.q, config.heads, config.head_dim);
    const Tensor k = as_heads(a.k, config.kv_heads, config.head_dim);
    const Tensor v = as_heads(a.v, config.kv_heads, config.head_dim);

    ops.rmsnorm_forward(a.normed, a.attention_inverse_rms, in, block.attention_norm, epsilon);
    seen(query, a.normed);
    linear(a.q, a.normed, query);
    linear(a.k, a.normed, key);
    linear(a.v, a.normed, value);
    ops.rope_forward(q, cosines, sines);
    ops.rope_forward(k, cosines, sines);
    ops.attention_forward(as_heads(a.attention, config.heads, config.head_dim), a.log_sum_exp, q, k, v,
                          attention_shape(config, batch));
    seen(output, a.attention);
    linear(a.middle, a.attention, output);
    ops.add(a.middle, a.middle, in);

    ops.rmsnorm_forward(a.normed, a.mlp_inverse_rms, a.middle, block.mlp_norm, epsilon);
    seen(gate, a.normed);
    linear(a.gate, a.normed, gate);
    linear(a.up, a.normed, up);
    ops.swiglu_forward(a.activated, a.gate, a.up);
    seen(down, a.activated);
    linear(out, a.activated, down);
    ops.add(out, out, a.middle);
}

void block_backward(Ops& ops, const Model& model, const Block& block, Tensor d_hidden, Tensor in,
                    const BlockActivations& a, const BlockGradients& gradients, const BackwardBuffers& b,
                    const Batch& batch, bool accumulate) {
    const ModelConfig& config = model.config;
    const auto parameters = [&](Tensor d_out, Tensor from, MatrixIndex index) {
        ops.linear_backward_weight(gradients.weights[index], d_out, from, accumulate);
        if (!gradients.biases[index].empty()) ops.column_sum(gradients.biases[index], d_out);
    };
    const auto input = [&](Tensor d_in, Tensor d_out, MatrixIndex index, bool add) {
        ops.linear_backward_input(d_in, d_out, block.matrices[index].weight, add);
    };
    const Tensor cosines = model.cosines.rows(0, batch.length);
    const Tensor sines = model.sines.rows(0, batch.length);

    const auto epsilon = static_cast<float>(config.rms_epsilon);

    input(b.d_activated, d_hidden, down, false);
    ops.swiglu_backward(a.gate, a.up, a.activated, b.d_activated, a.gate, a.up);
    parameters(d_hidden, a.activated, down);
    ops.rmsnorm_forward(a.normed, a.mlp_inverse_rms, a.middle, block.mlp_norm, epsilon);
    parameters(a.gate, a.normed, gate);
    parameters(a.up, a.normed, up);
    input(b.d_normed, a.gate, gate, false);
    input(b.d_normed, a.up, up, true);
    ops.rmsnorm_backward(d_hidden, gradients.mlp_norm, b.d_normed, a.middle, block.mlp_norm, a.mlp_inverse_rms);

    parameters(d_hidden, a.attention, output);
    input(b.d_attention, d_hidden, output, false);
    const Tensor d_q = as_heads(b.d_q, config.heads, config.head_dim);
    const Tensor d_k = as_heads(b.d_k, config.kv_heads, config.head_dim);
    ops.attention_backward(
        d_q, d_k, as_heads(b.d_v, config.kv_heads, config.head_dim),
        as_heads(b.d_attention, config.heads, config.head_dim), as_heads(a.attention, config.heads, config.head_dim),
        a.log_sum_exp, as_heads(a.q, config.heads, config.head_dim), as_heads(a.k, config.kv_heads, config.head_dim),
        as_heads(a.v, config.kv_heads, config.head_dim), attention_shape(config, batch));
    ops.rope_backward(d_q, cosines, sines);
    ops.rope_backward(d_k, cosines, sines);
    ops.rmsnorm_forward(a.normed, a.attention_inverse_rms, in, block.attention_norm, epsilon);
    parameters(b.d_q, a.normed, query);
    parameters(b.d_k, a.normed, key);
    parameters(b.d_v, a.normed, value);
    input(b.d_normed, b.d_q, query, false);
    input(b.d_normed, b.d_k, key, true);
    input(b.d_normed, b.d_v, value, true);
    ops.rmsnorm_backward(d_hidden, gradients.attention_norm, b.d_normed, in, block.attention_norm,
                         a.attention_inverse_rms);
}

}  // namespace pvtune
