#pragma once

#include "host/model/config.h"

namespace pvtune {

/// Floating-point operations of the products in a forward pass over `tokens` tokens in sequences of `length`: two a
/// weight and token, and half of the length x length scores and sums (causal; less within a window). A backward pass
/// with all gradients takes twice as many.
double forward_flops(const ModelConfig& config, std::int64_t tokens, std::int64_t length);

}  // namespace pvtune
