#pragma once

#include "host/bench/registry.h"

namespace pvtune {

/// Logits exist for a chunk of tokens at a time: as many as host/model/head.cpp takes.
inline constexpr std::int64_t head_rows = 256;

/// out [rows, intermediate] = in [rows, width] * weight^T, for the operation and its other versions.
struct LinearOperands {
    Tensor in, weight, out;
};
LinearOperands linear_operands(Operands& operands, const BenchSetting& setting, std::int64_t rows);

/// The call with the bytes and flops of these operands.
BenchCall linear_call(const BenchSetting& setting, const LinearOperands& operands, std::function<void()> run);

}  // namespace pvtune
