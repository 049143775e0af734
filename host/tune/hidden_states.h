#pragma once

#include "host/backend/backend.h"

#include <array>
#include <vector>

namespace pvtune {

/// The hidden states between the blocks of a step: [micro-batch][layer], layer i is what block i reads and layer
/// `layers` what the last block writes. Offloaded, host memory keeps them and the device holds two layers, even and
/// odd: a layer leaves while the next block computes, and comes back one block ahead of the backward pass.
class HiddenStates {
public:
    HiddenStates() = default;
    HiddenStates(Backend& backend, DType dtype, std::int64_t micro_batches, std::int64_t layers, std::int64_t tokens,
                 std::int64_t width, bool offload);

    /// The device's tensor. Offloaded, it is that of layer +- 2 too: its content is what came last.
    Tensor at(std::int64_t micro, std::int64_t layer) const;
    /// Where a block that runs again for its activations may write its output, of which `at` still has the bits or
    /// which has left the device.
    Tensor discarded(std::int64_t micro, std::int64_t layer) const;

    /// Before the first micro-batch of a layer is written in the forward pass.
    void begin_layer(std::int64_t layer);
    /// After a micro-batch of a layer was written in the forward pass.
    void written(std::int64_t micro, std::int64_t layer);

    /// Starts bringing a layer back; await() makes operations from then on wait for it.
    void fetch(std::int64_t layer);
    void await(std::int64_t layer);

private:
    Backend* backend_ = nullptr;
    std::int64_t layers_ = 0;
    bool offload_ = false;
    std::vector<Tensor> device_;  ///< [micro * (layers + 1) + layer], offloaded [micro * 2 + layer % 2]
    std::vector<Tensor> host_;    ///< [micro * (layers + 1) + layer]
    Tensor discarded_;
    std::array<Copy, 2> leaving_, coming_;
};

}  // namespace pvtune
