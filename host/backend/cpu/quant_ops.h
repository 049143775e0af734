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
void search_codes(Tensor codes, Tensor points, Tensor codebooks, int beam, int sweeps);

void dequantize_scalar(Tensor weight, const ScalarCodes& scalar);
/// Ops::linear_from_scalar.
void scalar_gemv(Tensor out, Tensor in, const ScalarCodes& scalar, Tensor bias);
void scalar_gradient(Tensor d_scales, Tensor d_zeros, Tensor d_weight, const ScalarCodes& scalar);
void assign_scalar(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights);
void scalar_change(Tensor change, const ScalarCodes& scalar, Tensor saved, Tensor weights);
void scalar_product(Tensor product, const ScalarCodes& scalar, Tensor matrix, Tensor saved, Tensor weights);
void scalar_distance(Tensor distance, const ScalarCodes& scalar, Tensor target, Tensor weights);
void scalar_different(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights);
void scalar_eager_score(Tensor scores, Tensor changes, const ScalarCodes& scalar, Tensor gradient, Tensor second_moment,
                        float correction, float epsilon);

void gptq(const ScalarCodes& scalar, Tensor weight, Tensor shares, Tensor order);
void ldlq(Tensor codes, Tensor target, Tensor shares);
void additive_sweep(const AdditiveCodes& additive, Tensor quantized, Tensor gradient, Tensor hessian, Tensor factors,
                    int beam, std::int64_t block);
void scale_rows(Tensor values, Tensor factors);
void row_products(Tensor products, Tensor a, Tensor b);
void hessian_products(Tensor products, Tensor a, Tensor b, Tensor hessian);

void gather_codes(Tensor saved, Tensor codes, Tensor groups);
void code_change(Tensor change, const AdditiveCodes& additive, Tensor saved, Tensor groups);
void restore_codes(Tensor codes, Tensor saved, Tensor groups, Tensor keep);
void code_product(Tensor product, const AdditiveCodes& additive, Tensor matrix, Tensor saved, Tensor groups);
void code_distance(Tensor distance, const AdditiveCodes& additive, Tensor target, Tensor groups);
void assign_different(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups);
void eager_score(Tensor scores, Tensor changes, const AdditiveCodes& additive, Tensor gradient, Tensor second_moment,
                 float correction, float epsilon);
void apply_changes(Tensor codes, Tensor changed, Tensor changes, Tensor scores, Tensor groups,
                   std::int64_t codebook_size);

void bound_changes(Tensor keep, Tensor change, Tensor scores, Tensor groups, Tensor weight_squares, double trust_ratio,
                   std::int64_t most);
void sampling_keys(Tensor keys, Tensor scores, float inverse_temperature, std::uint64_t seed);
void round_robin(Tensor indices, std::int64_t first, std::int64_t groups);
void score_histogram(Tensor histogram, Tensor scores);
void scatter_difference(Tensor scores, Tensor before, Tensor after, Tensor groups);
void keep_by_chance(Tensor keep, Tensor nearest, Tensor second, Tensor groups, float temperature, std::uint64_t seed);
void rows_differ(Tensor differ, Tensor a, Tensor b);
void note_returns(Tensor returned, Tensor history, Tensor now, Tensor before, Tensor groups);

void hadamard_transform(Tensor values);
void dequantize_lattice(Tensor weight, const LatticeCodes& lattice);
/// Ops::linear_from_lattice.
void lattice_gemv(Tensor out, Tensor in, const LatticeCodes& lattice, Tensor bias);
void lattice_gradient(Tensor d_scale, Tensor d_left, Tensor d_right, Tensor d_weight, const LatticeCodes& lattice);
void lattice_code_gradient(Tensor d_weight, const LatticeCodes& lattice);
void lattice_target(Tensor target, Tensor scores, Tensor wanted, Tensor weight, const LatticeCodes& lattice);
void assign_lattice(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups);
void lattice_change(Tensor change, const LatticeCodes& lattice, Tensor saved, Tensor groups);
void lattice_product(Tensor product, const LatticeCodes& lattice, Tensor matrix, Tensor saved, Tensor groups);
void lattice_distance(Tensor distance, const LatticeCodes& lattice, Tensor target, Tensor groups);
void lattice_different(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups);

void adam(Tensor value, Tensor first_moment, Tensor second_moment, Tensor gradient, const AdamSettings& settings);
void moment_and_score(Tensor target, Tensor scores, Tensor second_moment, Tensor d_weight, Tensor base, Tensor current,
                      std::int64_t group, const VStepSettings& settings);
void select_largest(Tensor indices, Tensor scores);
double sum_of_squares(Tensor values);
double sum(Tensor values);
std::uint32_t count_flags(Tensor flags);

}  // namespace pvtune::cpu
