#pragma once

#include "host/model/block.h"

#include <functional>
#include <span>
#include <vector>

namespace pvtune {

/// A context and its continuation, of which the last `predicted` tokens are the continuation: at least one, and fewer
/// than there are tokens.
struct ScoreRequest {
    std::vector<std::uint32_t> tokens;
    std::int64_t predicted = 0;

    /// Tokens that go through the model: nothing is predicted from the last one.
    std::int64_t length() const { return static_cast<std::int64_t>(tokens.size()) - 1; }
};

struct Score {
    double log_likelihood = 0;  ///< of the continuation, in nats
    bool greedy = false;        ///< every token of it is the most likely one (of equals the first)
};

/// Scores in the order of the requests. They go through the model longest first, as many together as the tokens of a
/// batch allow, filled up on the right: causal attention never looks there. progress(tokens done, requests done) after
/// each batch. A planning backend records the allocations alone.
std::vector<Score> score(Backend& backend, Model& model, std::span<const ScoreRequest> requests,
                         const std::function<void(std::int64_t, std::int64_t)>& progress);

}  // namespace pvtune
