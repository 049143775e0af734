#include "host/eval/generate.h"

#include "host/model/embedding.h"
#include "io/error.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace pvtune {

Decoder::Decoder(Backend& backend, const Model& model, std::int64_t capacity)
    : backend_(backend), model_(model), capacity_(capacity) {
    const ModelConfig& config = model.config;
    Arena& arena = backend.arena();
    const Batch one{1, 1};
    activations_ = allocate_activations(arena, config, model.precision, one);
    head_ = allocate_head(arena, config, model.precision, one, HeadUse::evaluate);
    token_ = arena.allocate("tokens", DType::u32, {1});
    hidden_ = arena.allocate("hidden state", model.precision, {1, config.width});
    for (std::int64_t i = 0; i < config.layers; ++i) {
        keys_.push_back(
            arena.allocate("key-value cache", model.precision, {capacity, config.kv_heads, config.head_dim}));
        values_.push_back(
            arena.allocate("key-value cache", model.precision, {capacity, config.kv_heads, config.head_dim}));
    }
}

/// block_forward of one token; its key and value are written straight into the cache.
void Decoder::block_step(std::size_t i) {
    const ModelConfig& config = model_.config;
    const Block& block = model_.blocks[i];
    const std::int64_t kv_width = config.kv_heads * config.head_dim;
    BlockActivations a = activations_;
    a.k = keys_[i].rows(position_, 1).reshaped({1, kv_width});
    a.v = values_[i].rows(position_, 1).reshaped({1, kv_width});
    Ops& ops = backend_.ops();
    const auto linear = [&](Tensor to, Tensor from, MatrixIndex index) {
        const Matrix& matrix = block.matrices[index];
        if (matrix.weight.empty()) return matrix.quantized->forward_row(ops, to, from, matrix.bias);
        ops.linear_forward(to, from, matrix.weight, matrix.bias);
    };
    const auto attention = [&] {
        ops.attention_decode(a.attention.reshaped({config.heads, config.head_dim}),
                             a.q.reshaped({config.heads, config.head_dim}), keys_[i], values_[i],
                             {1, position_ + 1, config.heads, config.kv_heads, config.head_dim,
                              config.window_of(block.layer), static_cast<float>(config.attention_cap)});
    };
    block_formulas(ops, config, block, hidden_, hidden_, a, rotary_rows(model_, block, capacity_, position_, 1),
                   {linear, attention});
}

Tensor Decoder::step(std::uint32_t token) {
    assert(position_ < capacity_ && token < static_cast<std::uint64_t>(model_.config.vocabulary));
    backend_.upload(token_, &token);
    embed(backend_.ops(), model_, hidden_, token_);
    for (std::size_t i = 0; i < model_.blocks.size(); ++i) block_step(i);
    logits(backend_.ops(), model_, head_, head_.logits, hidden_);
    ++position_;
    return head_.logits;
}

std::uint32_t sample(std::span<const float> logits, const SamplingSettings& settings, double uniform) {
    if (!std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); })) {
        throw Error("the model's logits are not finite: it is damaged, or needs --precision f32");
    }
    const auto best = std::max_element(logits.begin(), logits.end());
    if (settings.temperature <= 0) return static_cast<std::uint32_t>(best - logits.begin());

    std::vector<double> weights(logits.size());
    std::transform(logits.begin(), logits.end(), weights.begin(),
                   [&](float value) { return std::exp(static_cast<double>(value - *best) / settings.temperature); });
    std::vector<std::uint32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return weights[a] > weights[b]; });
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::size_t kept = 0;
    double share = 0;
    while (kept < order.size() && (kept == 0 || share < settings.top_p * total)) share += weights[order[kept++]];
    double left = uniform * share;
    for (std::size_t i = 0; i < kept; ++i) {
        left -= weights[order[i]];
        if (left < 0) return order[i];
    }
    return order[kept - 1];
}

}  // namespace pvtune
