#include "host/model/block.h"

namespace pvtune {

namespace {

AttentionShape attention_shape(const ModelConfig& config, const Block& block, const Batch& batch) {
    return {.sequences = batch.sequences,
            .length = batch.length,
            .heads = config.heads,
            .kv_heads = config.kv_heads,
            .head_dim = config.head_dim,
            .window = config.window_of(block.layer),
            .cap = static_cast<float>(config.attention_cap)};
}

Tensor as_heads(Tensor rows, std::int64_t heads, std::int64_t head_dim) {
    return rows.reshaped({rows.dim(0), heads, head_dim});
}

/// Rows of heads, one after another: the norms of heads see each as a row.
Tensor each_head(Tensor rows, std::int64_t head_dim) { return rows.reshaped({rows.elements() / head_dim, head_dim}); }

void gated_forward(Ops& ops, Activation activation, Tensor out, Tensor gates, Tensor ups) {
    if (activation == Activation::silu) return ops.swiglu_forward(out, gates, ups);
    ops.geglu_forward(out, gates, ups);
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
    if (config.head_norms) {
        a.query_projected = rows(config.heads * config.head_dim);
        a.key_projected = rows(config.kv_heads * config.head_dim);
        a.query_inverse_rms = statistics(config.heads);
        a.key_inverse_rms = statistics(config.kv_heads);
    }
    if (config.branch_norms) {
        a.attention_out = rows(config.width);
        a.attention_out_inverse_rms = statistics(1);
        a.mlp_out = rows(config.width);
        a.mlp_out_inverse_rms = statistics(1);
    }
    a.normed = shared ? shared->normed : rows(config.width);
    a.activated = shared ? shared->activated : rows(config.intermediate);
    return a;
}

BlockActivations first_rows(const BlockActivations& activations, const Batch& batch) {
    const std::int64_t tokens = batch.tokens();
    BlockActivations part = activations;
    for (Tensor* rows :
         {&part.q, &part.k, &part.v, &part.attention, &part.middle, &part.gate, &part.up, &part.normed, &part.activated,
          &part.query_projected, &part.key_projected, &part.attention_out, &part.mlp_out}) {
        if (!rows->empty()) *rows = rows->rows(0, tokens);
    }
    for (Tensor* statistics :
         {&part.attention_inverse_rms, &part.mlp_inverse_rms, &part.log_sum_exp, &part.query_inverse_rms,
          &part.key_inverse_rms, &part.attention_out_inverse_rms, &part.mlp_out_inverse_rms}) {
        if (!statistics->empty()) *statistics = Tensor(statistics->data, DType::f32, {statistics->dim(0), tokens});
    }
    return part;
}

BlockGradients allocate_gradients(Arena& arena, const Model& model) {
    const Block& block = model.blocks.front();
    BlockGradients gradients;
    for (std::size_t i = 0; i < norms_per_block; ++i) {
        if (block.norms[i].empty()) continue;
        gradients.norms[i] = arena.allocate("block gradients", DType::f32, {block.norms[i].elements()});
    }
    for (std::size_t i = 0; i < matrices_per_block; ++i) {
        const Matrix& matrix = block.matrices[i];
        gradients.weights[i] = arena.allocate("block gradients", DType::f32, {matrix.rows, matrix.columns});
        if (!matrix.bias.empty()) gradients.biases[i] = arena.allocate("block gradients", DType::f32, {matrix.rows});
    }
    return gradients;
}

std::vector<Tensor> dense_gradients(const BlockGradients& gradients, const ModelConfig& config) {
    std::vector<Tensor> dense;
    for (const TensorSpec& spec : block_specs(config, 0)) {
        if (spec.block_matrix) continue;
        dense.push_back(spec.norm >= 0 ? gradients.norms[static_cast<std::size_t>(spec.norm)]
                                       : gradients.biases[static_cast<std::size_t>(spec.matrix)]);
    }
    return dense;
}

void clear_dense_gradients(Ops& ops, const BlockGradients& gradients) {
    for (const Tensor& norm : gradients.norms) {
        if (!norm.empty()) ops.fill_zero(norm);
    }
    for (const Tensor& bias : gradients.biases) {
        if (!bias.empty()) ops.fill_zero(bias);
    }
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

void block_formulas(Ops& ops, const ModelConfig& config, const Block& block, Tensor out, Tensor in,
                    const BlockActivations& a, const RotaryTables& rotary, const BlockCalls& calls) {
    const auto epsilon = static_cast<float>(config.rms_epsilon);
    const auto norm = [&](Tensor to, Tensor inverse_rms, Tensor from, NormIndex index) {
        ops.rmsnorm_forward(to, inverse_rms, from, block.norms[index], epsilon);
    };
    /// to = in + the branch's output, which `product` writes; to may be in.
    const auto add_branch = [&](Tensor to, Tensor before, Tensor branch, Tensor inverse_rms, Tensor from,
                                MatrixIndex product, NormIndex index) {
        calls.linear(branch.empty() ? to : branch, from, product);
        if (!branch.empty()) norm(to, inverse_rms, branch, index);
        ops.add(to, to, before);
    };

    norm(a.normed, a.attention_inverse_rms, in, attention_norm);
    calls.linear(config.head_norms ? a.query_projected : a.q, a.normed, query);
    calls.linear(config.head_norms ? a.key_projected : a.k, a.normed, key);
    calls.linear(a.v, a.normed, value);
    if (config.head_norms) {
        norm(each_head(a.q, config.head_dim), a.query_inverse_rms, each_head(a.query_projected, config.head_dim),
             query_norm);
        norm(each_head(a.k, config.head_dim), a.key_inverse_rms, each_head(a.key_projected, config.head_dim), key_norm);
    }
    ops.rope_forward(as_heads(a.q, config.heads, config.head_dim), rotary.cosines, rotary.sines);
    ops.rope_forward(as_heads(a.k, config.kv_heads, config.head_dim), rotary.cosines, rotary.sines);
    calls.attention();
    add_branch(a.middle, in, a.attention_out, a.attention_out_inverse_rms, a.attention, output, attention_out_norm);

    norm(a.normed, a.mlp_inverse_rms, a.middle, mlp_norm);
    calls.linear(a.gate, a.normed, gate);
    calls.linear(a.up, a.normed, up);
    gated_forward(ops, config.activation, a.activated, a.gate, a.up);
    add_branch(out, a.middle, a.mlp_out, a.mlp_out_inverse_rms, a.activated, down, mlp_out_norm);
}

void block_forward(Ops& ops, const Model& model, const Block& block, Tensor out, Tensor in, const BlockActivations& a,
                   const Batch& batch, const InputObserver& observe) {
    const ModelConfig& config = model.config;
    const auto linear = [&](Tensor to, Tensor from, MatrixIndex index) {
        // Key and value read what query reads, up what gate reads.
        if (observe && index != key && index != value && index != up) observe(index, from);
        ops.linear_forward(to, from, block.matrices[index].weight, block.matrices[index].bias);
    };
    const auto attention = [&] {
        ops.attention_forward(as_heads(a.attention, config.heads, config.head_dim), a.log_sum_exp,
                              as_heads(a.q, config.heads, config.head_dim),
                              as_heads(a.k, config.kv_heads, config.head_dim),
                              as_heads(a.v, config.kv_heads, config.head_dim), attention_shape(config, block, batch));
    };
    block_formulas(ops, config, block, out, in, a, rotary_rows(model, block, batch.length, 0, batch.length),
                   {linear, attention});
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
    const auto norm = [&](Tensor d_in, Tensor d_out, Tensor from, Tensor inverse_rms, NormIndex index) {
        ops.rmsnorm_backward(d_in, gradients.norms[index], d_out, from, block.norms[index], inverse_rms);
    };
    const auto norm_alone = [&](Tensor d_in, Tensor d_out, Tensor from, Tensor inverse_rms, NormIndex index) {
        ops.fill_zero(d_in);
        norm(d_in, d_out, from, inverse_rms, index);
        return d_in;
    };
    const RotaryTables rotary = rotary_rows(model, block, batch.length, 0, batch.length);
    const auto epsilon = static_cast<float>(config.rms_epsilon);

    Tensor d_branch = d_hidden;
    if (config.branch_norms)
        d_branch = norm_alone(b.d_normed, d_hidden, a.mlp_out, a.mlp_out_inverse_rms, mlp_out_norm);
    input(b.d_activated, d_branch, down, false);
    if (config.activation == Activation::silu) {
        ops.swiglu_backward(a.gate, a.up, a.activated, b.d_activated, a.gate, a.up);
    } else {
        ops.geglu_backward(a.gate, a.up, a.activated, b.d_activated, a.gate, a.up);
    }
    parameters(d_branch, a.activated, down);
    ops.rmsnorm_forward(a.normed, a.mlp_inverse_rms, a.middle, block.norms[mlp_norm], epsilon);
    parameters(a.gate, a.normed, gate);
    parameters(a.up, a.normed, up);
    input(b.d_normed, a.gate, gate, false);
    input(b.d_normed, a.up, up, true);
    norm(d_hidden, b.d_normed, a.middle, a.mlp_inverse_rms, mlp_norm);

    d_branch = d_hidden;
    if (config.branch_norms) {
        d_branch = norm_alone(b.d_normed, d_hidden, a.attention_out, a.attention_out_inverse_rms, attention_out_norm);
    }
    parameters(d_branch, a.attention, output);
    input(b.d_attention, d_branch, output, false);
    Tensor d_q = b.d_q;
    Tensor d_k = b.d_k;
    ops.attention_backward(
        as_heads(d_q, config.heads, config.head_dim), as_heads(d_k, config.kv_heads, config.head_dim),
        as_heads(b.d_v, config.kv_heads, config.head_dim), as_heads(b.d_attention, config.heads, config.head_dim),
        as_heads(a.attention, config.heads, config.head_dim), a.log_sum_exp,
        as_heads(a.q, config.heads, config.head_dim), as_heads(a.k, config.kv_heads, config.head_dim),
        as_heads(a.v, config.kv_heads, config.head_dim), attention_shape(config, block, batch));
    ops.rope_backward(as_heads(d_q, config.heads, config.head_dim), rotary.cosines, rotary.sines);
    ops.rope_backward(as_heads(d_k, config.kv_heads, config.head_dim), rotary.cosines, rotary.sines);
    if (config.head_norms) {
        // d_attention is done with, and so is d_q once the norm of the queries is.
        const std::int64_t head = config.head_dim;
        norm_alone(each_head(b.d_attention, head), each_head(d_q, head), each_head(a.query_projected, head),
                   a.query_inverse_rms, query_norm);
        const Tensor freed(d_q.data, d_q.dtype, {d_k.dim(0), d_k.dim(1)});
        norm_alone(each_head(freed, head), each_head(d_k, head), each_head(a.key_projected, head), a.key_inverse_rms,
                   key_norm);
        d_q = b.d_attention;
        d_k = freed;
    }
    ops.rmsnorm_forward(a.normed, a.attention_inverse_rms, in, block.norms[attention_norm], epsilon);
    parameters(d_q, a.normed, query);
    parameters(d_k, a.normed, key);
    parameters(b.d_v, a.normed, value);
    input(b.d_normed, d_q, query, false);
    input(b.d_normed, d_k, key, true);
    input(b.d_normed, b.d_v, value, true);
    norm(d_hidden, b.d_normed, in, a.attention_inverse_rms, attention_norm);
}

}  // namespace pvtune
