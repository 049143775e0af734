#pragma once

#include "host/model/head.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pvtune {

/// Feeds a model one token at a time; keys and values of the tokens before stay in a cache. The model's weights are
/// dense, dequantised (Residency::all) or read as codes (Residency::codes).
class Decoder {
public:
    /// capacity: tokens that the cache holds; the model's rotary tables must cover them.
    Decoder(Backend& backend, const Model& model, std::int64_t capacity);

    /// Takes the token at the next position; logits of the one after it come back: f32 [1, vocabulary] on the device.
    Tensor step(std::uint32_t token);
    std::int64_t position() const { return position_; }

private:
    void block_step(std::size_t i);

    Backend& backend_;
    const Model& model_;
    std::int64_t capacity_;
    std::int64_t position_ = 0;
    BlockActivations activations_;
    HeadBuffers head_;
    Tensor token_, hidden_;
    std::vector<Tensor> keys_, values_;  ///< [capacity, kv_heads, head_dim] a block
};

struct SamplingSettings {
    double temperature = 0;  ///< 0: the most likely token
    double top_p = 1;        ///< draw from the most likely tokens that hold this share of the probability
};

/// The next token, from logits; uniform in [0, 1) decides. Throws Error when a logit is not finite.
std::uint32_t sample(std::span<const float> logits, const SamplingSettings& settings, double uniform);

}  // namespace pvtune
