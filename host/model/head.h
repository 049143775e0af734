#pragma once

#include "host/model/block.h"

namespace pvtune {

/// Buffers of the output head and the loss. Logits exist for a chunk of tokens at a time: chunk * vocabulary elements,
/// however long the batch is.
struct HeadBuffers {
    std::int64_t chunk = 0;
    Tensor normed, inverse_rms;     ///< final norm of the whole batch
    Tensor teacher_normed;          ///< empty where there is no teacher
    Tensor logits, teacher_logits;  ///< f32 [chunk, vocabulary]
    Tensor d_logits;                ///< [chunk, vocabulary] in the compute precision; empty for evaluation
    Tensor losses;                  ///< f32 [tokens]
    Tensor d_normed;
};

enum class HeadUse { evaluate, distill };

HeadBuffers allocate_head(Arena& arena, const ModelConfig& config, DType precision, const Batch& batch, HeadUse use);

/// Gradients of the head's parameters, f32; both empty where they are not trained.
struct HeadGradients {
    Tensor head;        ///< [vocabulary, width]; shared with the embedding's where they are tied
    Tensor final_norm;  ///< [width]
};

/// losses[t] = -log p(targets[t]) for every row of hidden (before the final norm). With d_hidden: d_hidden and the
/// gradients of scale * sum(losses), gradients added to. Returns after the losses are on the device.
void cross_entropy(Ops& ops, const Model& model, const HeadBuffers& buffers, Tensor hidden, Tensor targets,
                   Tensor d_hidden, const HeadGradients& gradients, float scale);

/// losses[t] = KL(teacher || model) of the next-token distributions; teacher_hidden is the teacher's last hidden state.
/// Sets d_hidden = scale * d sum(losses) / d hidden, adds to the gradients.
void distill(Ops& ops, const Model& model, const Model& teacher, const HeadBuffers& buffers, Tensor hidden,
             Tensor teacher_hidden, Tensor d_hidden, const HeadGradients& gradients, float scale);

/// Rows of logits: out f32 [rows, vocabulary] from hidden [rows, width].
void logits(Ops& ops, const Model& model, const HeadBuffers& buffers, Tensor out, Tensor hidden);

}  // namespace pvtune
