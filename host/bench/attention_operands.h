#pragma once

#include "host/bench/registry.h"

namespace pvtune {

/// Causal attention over the shape's sequences, for the operation and its other versions.
struct AttentionOperands {
    AttentionShape shape;
    Tensor q, k, v, out, log_sum_exp;
    Tensor d_q, d_k, d_v, d_out;  ///< backward only
};
AttentionOperands attention_operands(Operands& operands, const BenchSetting& setting, bool backward);

// The calls with the bytes and flops of these operands.
BenchCall attention_forward_call(const BenchSetting& setting, const AttentionOperands& operands,
                                 std::function<void()> run);
/// The statistics of the forward pass are made before every call.
BenchCall attention_backward_call(const BenchSetting& setting, const AttentionOperands& operands,
                                  std::function<void()> run);

}  // namespace pvtune
