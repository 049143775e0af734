#include "host/tune/batches.h"

#include "host/quant/random.h"
#include "io/error.h"

#include <numeric>
#include <string>

namespace pvtune {

Batches::Batches(std::span<const std::uint32_t> tokens, std::int64_t length, std::uint64_t seed, bool shuffle)
    : tokens_(tokens),
      length_(length),
      seed_(seed),
      shuffle_(shuffle),
      windows_(static_cast<std::int64_t>(tokens.size()) / length) {
    if (windows_ == 0) {
        throw Error("--tokens: " + std::to_string(tokens.size()) + " tokens are not one sequence of --ctx " +
                    std::to_string(length) + ": give more text or a smaller --ctx");
    }
}

void Batches::order_epoch(std::int64_t epoch) {
    epoch_ = epoch;
    order_.resize(static_cast<std::size_t>(windows_));
    std::iota(order_.begin(), order_.end(), 0);
    if (!shuffle_) return;
    // Neighbouring seeds must be far apart: Random's own states are steps along one sequence. 0 for seed 0.
    const std::uint64_t start = Random(seed_).next() ^ Random(0).next();
    Random random(start + static_cast<std::uint64_t>(epoch));
    for (std::int64_t i = windows_ - 1; i > 0; --i) {
        std::swap(order_[static_cast<std::size_t>(i)], order_[static_cast<std::size_t>(random.below(i + 1))]);
    }
}

std::span<const std::uint32_t> Batches::sequence(std::int64_t position) {
    if (position / windows_ != epoch_) order_epoch(position / windows_);
    const std::int64_t window = order_[static_cast<std::size_t>(position % windows_)];
    return tokens_.subspan(static_cast<std::size_t>(window * length_), static_cast<std::size_t>(length_));
}

}  // namespace pvtune
