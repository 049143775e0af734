#pragma once

#include "host/calibrate/activation_stream.h"
#include "host/model/single_block.h"

namespace pvtune {

/// Tuning of a quantised block's continuous parameters (codebooks, scales, norms, biases) against the output of the
/// unquantised block.
struct BlockTuneSettings {
    int epochs = 4;           ///< passes over the sequences at most; 0: no tuning
    std::int64_t batch = 4;   ///< sequences a step
    float rate = 1e-3F;       ///< of Adam's updates, scaled to the parameter's norm
    double held_out = 0.125;  ///< share of the sequences that decides when to stop
};

/// Buffers for one micro-batch through one block, forward and backward; all blocks share them.
struct BlockWork {
    Batch batch;
    BlockActivations activations;
    BackwardBuffers backward;
    BlockGradients gradients;
    Tensor in, out, target;  ///< [tokens, width]
    Tensor d_hidden;
    Tensor losses;   ///< f32 [tokens]
    Tensor squares;  ///< f64 [1]
};

/// backward: whether blocks will be tuned.
BlockWork allocate_block_work(Backend& backend, const Model& model, const Batch& batch, bool backward);

/// The same buffers cut to the first `count` sequences.
BlockWork first_sequences(const BlockWork& work, std::int64_t count);

/// Mean squared errors over the held-out sequences, relative to the mean square of the target.
struct BlockTuneReport {
    double before = 0;
    double after = 0;
    int epochs = 0;  ///< that were worth keeping
};

/// Adam state of a block, allocated by the first call and used again by later ones.
struct BlockTuneState {
    std::vector<Tensor> first_moments, second_moments, gradients;
};

/// Tunes block `index`, whose matrices are quantised in model.blocks[0]; inputs and targets are of the same sequences.
/// After every epoch the held-out error decides: no gain ends the tuning, and the best parameters stay. A loss that is
/// not finite ends it too. Leaves the weights dequantised.
BlockTuneReport tune_block(Backend& backend, Model& model, std::int64_t index, const BlockWork& work,
                           BlockTuneState& state, ActivationStream& inputs, ActivationStream& targets,
                           std::int64_t sequences, const BlockTuneSettings& settings);

}  // namespace pvtune
