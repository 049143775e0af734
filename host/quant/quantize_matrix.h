#pragma once

#include "host/quant/calibrated_additive.h"

namespace pvtune {

/// Memory for the codes and parameters that quantize_matrix() gives for the spec, all zero.
std::unique_ptr<Representation> allocate_quantized(Backend& backend, std::int64_t rows, std::int64_t columns,
                                                   const QuantizationSpec& spec);

/// Quantises weight [rows, columns] as the spec says. hessian (f32 [columns, columns], symmetric, not damped) is the
/// sum of x x^T over the inputs x of the matrix: the result has the least tr((W - What) H (W - What)^T) that its method
/// reaches; empty: the least |W - What|^2. Throws Error that names `name` for weights that are not finite and columns
/// that the group does not divide. `additive` is for additive codes under a Hessian.
std::unique_ptr<Representation> quantize_matrix(Backend& backend, const std::string& name,
                                                std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                                                const QuantizationSpec& spec, std::uint64_t seed,
                                                std::span<const float> hessian, QuantizationReport* report = nullptr,
                                                const CalibratedSettings& additive = {});

}  // namespace pvtune
