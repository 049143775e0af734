#pragma once

#include "host/model/block.h"

#include <functional>
#include <span>

namespace pvtune {

struct PerplexityResult {
    double nll = 0;  ///< mean negative log-likelihood of a prediction, in nats
    double perplexity = 0;
    std::int64_t windows = 0;
    std::int64_t predictions = 0;
    double seconds = 0;
};

/// Perplexity over the first `windows` non-overlapping windows of `length` tokens (0: all; a rest is dropped):
/// exp of the mean over the length - 1 predictions of every window. progress(windows done, nll so far) after each
/// batch.
PerplexityResult perplexity(Backend& backend, Model& model, std::span<const std::uint32_t> tokens, std::int64_t length,
                            std::int64_t windows, const std::function<void(std::int64_t, double)>& progress);

}  // namespace pvtune
