#pragma once

#include "host/backend/ops.h"

/// The CPU's operations on quantised matrices and the optimizer's: the contracts are those of the virtuals of the same
/// names in Ops. Each gives the same bits for any number of threads: work is cut into chunks whose number and bounds do
/// not depend on the threads, and partial sums are added in the order of the chunks.
namespace pvtune::cpu {

void dequantize_additive(Tensor weight, const AdditiveCodes& additive);
/// Ops::linear_from_codes.
void dequantize_gemv(Tensor out, Tensor in, const AdditiveCodes& additive, Tensor bias);
void additive_gradient(Tensor d_codebooks, Tensor d_scales, Tensor d_weight, const AdditiveCodes& additive);
void assign_additive(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups, int beam);

void dequantize_scalar(Tensor weight, const ScalarCodes& scalar);
/// Ops::linear_from_scalar.
void scalar_gemv(Tensor out, Tensor in, const ScalarCodes& scalar, Tensor bias);
void scalar_gradient(Tensor d_scales, Tensor d_zeros, Tensor d_weight, const ScalarCodes& scalar);
void assign_scalar(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights);
void scalar_change(Tensor change, const ScalarCodes& scalar, Tensor saved, Tensor weights);

void gather_codes(Tensor saved, Tensor codes, Tensor groups);
void code_change(Tensor change, const AdditiveCodes& additive, Tensor saved, Tensor groups);
void bound_changes(Tensor keep, Tensor change, Tensor scores, Tensor groups, Tensor weight_squares, double trust_ratio);
void restore_codes(Tensor codes, Tensor saved, Tensor groups, Tensor keep);

void adam(Tensor value, Tensor first_moment, Tensor second_moment, Tensor gradient, const AdamSettings& settings);
void moment_and_score(Tensor target, Tensor scores, Tensor second_moment, Tensor d_weight, Tensor base, Tensor current,
                      std::int64_t group, const VStepSettings& settings);
void select_largest(Tensor indices, Tensor scores);
double sum_of_squares(Tensor values);
std::uint32_t count_flags(Tensor flags);

}  // namespace pvtune::cpu
