#pragma once

#include "host/model/model.h"

#include <functional>

namespace pvtune {

/// Sequences of equal length that go through the model together.
struct Batch {
    std::int64_t sequences = 0;
    std::int64_t length = 0;
    std::int64_t tokens() const { return sequences * length; }
};

/// What the forward pass of a block leaves for its backward pass. Where nothing is kept, one set serves all blocks.
struct BlockActivations {
    Tensor attention_inverse_rms, q, k, v, attention, log_sum_exp;
    Tensor middle;  ///< hidden state between attention and MLP
    Tensor mlp_inverse_rms, gate, up;
    // Of families with norms of heads: queries and keys before them, statistics [tokens * heads].
    Tensor query_projected, key_projected, query_inverse_rms, key_inverse_rms;
    // Of families with norms of what is added: it before them.
    Tensor attention_out, mlp_out, attention_out_inverse_rms, mlp_out_inverse_rms;
    // Cheap to build again: all blocks share these, and the backward pass rebuilds them.
    Tensor normed;     ///< of the attention, then of the MLP
    Tensor activated;  ///< the MLP's product of silu(gate) and up
};

/// shared: another block's activations, whose normed and activated serve this one too.
BlockActivations allocate_activations(Arena& arena, const ModelConfig& config, DType precision, const Batch& batch,
                                      const BlockActivations* shared = nullptr);

/// The same buffers cut to a smaller batch.
BlockActivations first_rows(const BlockActivations& activations, const Batch& batch);

/// Gradients of a block's parameters, f32, the parameters' shapes.
struct BlockGradients {
    std::array<Tensor, norms_per_block> norms;  ///< empty where the family has none
    std::array<Tensor, matrices_per_block> weights;
    std::array<Tensor, matrices_per_block> biases;  ///< empty where the matrix has none
};

BlockGradients allocate_gradients(Arena& arena, const Model& model);
/// Those of dense_parameters(), in its order.
std::vector<Tensor> dense_gradients(const BlockGradients& gradients, const ModelConfig& config);
/// Before the first micro-batch: block_backward adds to them.
void clear_dense_gradients(Ops& ops, const BlockGradients& gradients);

/// Buffers of a backward pass.
struct BackwardBuffers {
    Tensor d_activated, d_attention, d_q, d_k, d_v, d_normed;
};

BackwardBuffers allocate_backward(Arena& arena, const ModelConfig& config, DType precision, const Batch& batch);

/// Called with the inputs [tokens, columns] of matrices: of `query` (key and value read the same), `output`, `gate`
/// (and up), `down`.
using InputObserver = std::function<void(MatrixIndex, Tensor)>;

/// What a pass over sequences and a step of one token do each in their way.
struct BlockCalls {
    std::function<void(Tensor to, Tensor from, MatrixIndex)> linear;  ///< the product with a matrix
    std::function<void()> attention;                                  ///< from a.q, a.k, a.v to a.attention
};

/// The formulas of a block with these calls; rotary: rows of the tokens' positions.
void block_formulas(Ops& ops, const ModelConfig& config, const Block& block, Tensor out, Tensor in,
                    const BlockActivations& activations, const RotaryTables& rotary, const BlockCalls& calls);

/// out [tokens, width] = block(in); out may be in. The weights of the block must be prepared.
void block_forward(Ops& ops, const Model& model, const Block& block, Tensor out, Tensor in,
                   const BlockActivations& activations, const Batch& batch, const InputObserver& observe = {});

/// d_hidden: d loss / d out on entry, d loss / d in on return. Norm and bias gradients are added to; weight gradients
/// are added to if accumulate, else set. Overwrites activations.gate, .up and .normed.
void block_backward(Ops& ops, const Model& model, const Block& block, Tensor d_hidden, Tensor in,
                    const BlockActivations& activations, const BlockGradients& gradients,
                    const BackwardBuffers& buffers, const Batch& batch, bool accumulate);

}  // namespace pvtune
