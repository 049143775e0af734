#pragma once

#include "host/backend/tensor.h"

namespace pvtune {

/// Geometry of causal attention over packed sequences. Query head h reads key/value head h / (heads / kv_heads).
struct AttentionShape {
    std::int64_t sequences = 0;
    std::int64_t length = 0;  ///< tokens a sequence
    std::int64_t heads = 0;
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;
    std::int64_t window = 0;  ///< a token sees itself and the window - 1 before it; 0: all before it
    float cap = 0;            ///< scores become cap * tanh(score / cap); 0: they stay
};

/// Codes and continuous parameters of additive codebooks; W[o, g*d + i] = scales[o] * sum_m codebooks[m, codes[o,g,m],
/// i].
struct AdditiveCodes {
    Tensor codes;      ///< [out, in / group, books] u8 or u16
    Tensor codebooks;  ///< [books, codebook_size, group] f32
    Tensor scales;     ///< [out] f32
};

/// A grid a group of columns; W[o, i] = scales[o, g] * (codes[o, i] - zeros[o, g]), g = i / group.
struct ScalarCodes {
    Tensor codes;             ///< [out, in] u8
    Tensor scales;            ///< [out, ceil(in / group)] f32
    Tensor zeros;             ///< likewise
    std::int64_t group = 0;   ///< columns of a grid; the last of a row may have fewer
    std::int64_t levels = 0;  ///< codes are below
};

/// Codes and continuous parameters of QuIP#: W = diag(left) H X H diag(right) with H the transforms of
/// host/backend/hadamard.h and X[o, g*8 + i] = scale * decode(codes[o, g])[i] by the codebooks of cuda/e8p.h.
struct LatticeCodes {
    Tensor codes;  ///< [out, in / 8, bytes] u8: 2 bytes a group for 2 bits a weight, 3 for 3, 4 for 4
    Tensor scale;  ///< [1] f32
    Tensor left;   ///< [out] f32: signs, relaxed to reals by tuning
    Tensor right;  ///< [in] f32
};

struct AdamSettings {
    float rate = 0;
    float beta1 = 0.9F;
    float beta2 = 0.95F;
    float epsilon = 1e-8F;
    bool lamb = true;       ///< scale the update to `rate` times the tensor's norm
    std::int64_t step = 1;  ///< 1 on the first update, for the bias correction
};

struct VStepSettings {
    float rate = 1e-2F;  ///< code_lr
    float beta2 = 0.95F;
    float epsilon = 1e-8F;
    bool lamb = true;
    std::int64_t step = 1;
};

/// One call per tensor operation, forward and backward. Activations and weights are f32 or bf16, all of one call the
/// same; gradients of parameters, statistics and optimizer state are f32. Sums run in f32 or wider. "+=" means that the
/// call adds to what is there. Every op gives the same bits for any number of threads, but products in f32 on the CPU,
/// which are oneDNN's. tokens = rows of a hidden state (sequences * length).
class Ops {
public:
    virtual ~Ops() = default;

    // ---- model
    /// hidden[t] = table[tokens[t]]; hidden [tokens, width], table [vocabulary, width], tokens [tokens] u32.
    virtual void embedding_forward(Tensor hidden, Tensor table, Tensor tokens) = 0;
    /// d_table[tokens[t]] += d_hidden[t]; d_table f32.
    virtual void embedding_backward(Tensor d_table, Tensor d_hidden, Tensor tokens) = 0;

    /// out = in * inverse_rms * weight, inverse_rms[t] = 1 / sqrt(mean(in[t]^2) + epsilon) (f32 [tokens]); weight
    /// [width] f32.
    virtual void rmsnorm_forward(Tensor out, Tensor inverse_rms, Tensor in, Tensor weight, float epsilon) = 0;
    /// d_in += ..., d_weight (f32) += ...; d_weight may be empty.
    virtual void rmsnorm_backward(Tensor d_in, Tensor d_weight, Tensor d_out, Tensor in, Tensor weight,
                                  Tensor inverse_rms) = 0;

    /// out [tokens, rows] = in [tokens, columns] * weight [rows, columns]^T + bias [rows] f32 (may be empty). out may
    /// be f32 where in and weight are bf16 (logits).
    virtual void linear_forward(Tensor out, Tensor in, Tensor weight, Tensor bias) = 0;
    /// d_in = (accumulate ? d_in : 0) + d_out * weight.
    virtual void linear_backward_input(Tensor d_in, Tensor d_out, Tensor weight, bool accumulate) = 0;
    /// d_weight (f32 [rows, columns]) = (accumulate ? d_weight : 0) + d_out^T * in.
    virtual void linear_backward_weight(Tensor d_weight, Tensor d_out, Tensor in, bool accumulate) = 0;
    /// d_bias[j] (f32) += sum over t of d_out[t, j].
    virtual void column_sum(Tensor d_bias, Tensor d_out) = 0;

    /// Rotates heads [tokens, heads, head_dim] in place, pairing element i with i + half (the Hugging Face layout);
    /// cosines and sines [length, half] f32, half <= head_dim / 2: elements from 2 * half on stay. Token t is at
    /// position t mod length.
    virtual void rope_forward(Tensor heads, Tensor cosines, Tensor sines) = 0;
    /// The transposed rotation, in place.
    virtual void rope_backward(Tensor d_heads, Tensor cosines, Tensor sines) = 0;

    /// Causal softmax(q k^T / sqrt(head_dim)) v without a length x length tensor. q, out [tokens, heads, head_dim];
    /// k, v [tokens, kv_heads, head_dim]; log_sum_exp [heads, tokens] f32, kept for the backward pass.
    virtual void attention_forward(Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v,
                                   const AttentionShape& shape) = 0;
    /// Sets d_q, d_k, d_v.
    virtual void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor out, Tensor log_sum_exp,
                                    Tensor q, Tensor k, Tensor v, const AttentionShape& shape) = 0;

    /// One new token a sequence against a cache of the tokens before it and itself: q, out [heads, head_dim];
    /// keys, values [capacity, kv_heads, head_dim], of which the first shape.length rows count. shape.sequences is 1.
    virtual void attention_decode(Tensor out, Tensor q, Tensor keys, Tensor values, const AttentionShape& shape) = 0;

    /// out = silu(gate) * up, all [tokens, width].
    virtual void swiglu_forward(Tensor out, Tensor gate, Tensor up) = 0;
    /// Sets d_gate and d_up, and `out` to what swiglu_forward gave, for the gradient of the weights behind it. d_gate
    /// may be `gate`'s own buffer, d_up `up`'s and out d_out's.
    virtual void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) = 0;

    /// out = a + b; out may be a or b.
    virtual void add(Tensor out, Tensor a, Tensor b) = 0;

    // ---- loss, over a chunk of tokens
    /// loss[t] = KL(softmax(teacher[t]) || softmax(logits[t])); d_logits = scale * d loss / d logits, in d_logits'
    /// dtype. logits, teacher [rows, vocabulary] f32; loss f32 [rows].
    virtual void kl_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor teacher, float scale) = 0;
    /// loss[t] = -log softmax(logits[t])[targets[t]]; targets u32. d_logits may be empty (evaluation).
    virtual void cross_entropy_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor targets, float scale) = 0;

    /// losses[t] = mean((out[t] - target[t])^2) (f32 [rows]); d_out = scale * (out - target), in out's dtype (may be
    /// empty). out, target [rows, width].
    virtual void mse_loss(Tensor losses, Tensor d_out, Tensor out, Tensor target, float scale) = 0;

    // ---- calibration
    /// hessian (f32 [width, width], symmetric) += in^T in; in [tokens, width] f32 or bf16.
    virtual void hessian_accumulate(Tensor hessian, Tensor in) = 0;

    // ---- additive codebooks
    /// codes (u16 [count, books]) become the nearest to points (f32 [count, group]) that a beam search in codebooks
    /// (f32 [books, size, group]) finds from the present ones, going `sweeps` times through all codebooks; one
    /// codebook: the nearest, ties to the lower code. A point that is not finite keeps its codes. For the start of
    /// data-free codes.
    virtual void search_codes(Tensor codes, Tensor points, Tensor codebooks, int beam, int sweeps) = 0;
    /// weight [out, in] f32 or bf16.
    virtual void dequantize_additive(Tensor weight, const AdditiveCodes& additive) = 0;
    /// out [1, rows] = in [1, columns] * W^T + bias [rows] f32 (may be empty) straight from the codes: W is never in
    /// memory, nor rounded. in and out f32 or bf16.
    virtual void linear_from_codes(Tensor out, Tensor in, const AdditiveCodes& additive, Tensor bias) = 0;
    /// Sets the gradients of codebooks and scales (f32, their shapes) from d_weight f32 [out, in]:
    /// d_codebooks[m,k] = sum of scales[o] * d_weight_group over the groups whose m-th code is k;
    /// d_scales[o] = <d_weight[o], What[o] / scales[o]>.
    virtual void additive_gradient(Tensor d_codebooks, Tensor d_scales, Tensor d_weight,
                                   const AdditiveCodes& additive) = 0;
    /// New codes for the groups groups[i] (flat index o * (in / group) + g, u32 [count]) nearest to target [out, in]
    /// f32, beam search over the codebooks that starts from the present codes; changed[i] (u8) = any code differs from
    /// before.
    virtual void assign_additive(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups,
                                 int beam) = 0;

    // ---- scalar grids; their V step moves one weight at a time
    /// weight [out, in] f32 or bf16.
    virtual void dequantize_scalar(Tensor weight, const ScalarCodes& scalar) = 0;
    /// linear_from_codes.
    virtual void linear_from_scalar(Tensor out, Tensor in, const ScalarCodes& scalar, Tensor bias) = 0;
    /// Sets the gradients of scales and zeros (f32, their shapes) from d_weight f32 [out, in]:
    /// d_scales[o, g] = sum of d_weight * (code - zero), d_zeros[o, g] = -scale * sum of d_weight.
    virtual void scalar_gradient(Tensor d_scales, Tensor d_zeros, Tensor d_weight, const ScalarCodes& scalar) = 0;
    /// New codes for the weights weights[i] (flat index, u32 [count]) nearest to target [out, in] f32, ties to the
    /// lower code; a weight whose target or grid is not finite, or whose scale is 0, keeps its code. changed[i] (u8).
    virtual void assign_scalar(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights) = 0;
    /// change[i] (f32) = |W_weights[i] with the present code - with saved[i]|^2.
    virtual void scalar_change(Tensor change, const ScalarCodes& scalar, Tensor saved, Tensor weights) = 0;
    /// code_product, code_distance, assign_different and eager_score below, a weight a group. The change of a code that
    /// pays first is the next one against the slope: -infinity where there is no slope or the grid ends; changes[j] is
    /// the new code.
    virtual void scalar_product(Tensor product, const ScalarCodes& scalar, Tensor matrix, Tensor saved,
                                Tensor weights) = 0;
    virtual void scalar_distance(Tensor distance, const ScalarCodes& scalar, Tensor target, Tensor weights) = 0;
    virtual void scalar_different(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights) = 0;
    virtual void scalar_eager_score(Tensor scores, Tensor changes, const ScalarCodes& scalar, Tensor gradient,
                                    Tensor second_moment, float correction, float epsilon) = 0;

    // ---- taking a V step back. codes [.., n] u8 or u16: n of them a group
    /// saved[i] (the codes' type, [count, n]) = the codes of groups[i].
    virtual void gather_codes(Tensor saved, Tensor codes, Tensor groups) = 0;
    /// change[i] (f32) = |What_groups[i] with the present codes - with saved[i]|^2.
    virtual void code_change(Tensor change, const AdditiveCodes& additive, Tensor saved, Tensor groups) = 0;
    /// product[i] (f32) = <matrix_groups[i], What_groups[i] with the present codes - with saved[i]>; matrix f32 [out,
    /// in], the gradient: what the change of codes does to the loss, to first order.
    virtual void code_product(Tensor product, const AdditiveCodes& additive, Tensor matrix, Tensor saved,
                              Tensor groups) = 0;
    /// distance[i] (f32) = |target_groups[i] - What_groups[i]|^2 with the present codes; target f32 [out, in].
    virtual void code_distance(Tensor distance, const AdditiveCodes& additive, Tensor target, Tensor groups) = 0;
    /// Puts saved[i] back wherever keep[i] (u8) is 0.
    virtual void restore_codes(Tensor codes, Tensor saved, Tensor groups, Tensor keep) = 0;
    /// For every groups[i] whose changed[i] (u8) is 0: the nearest to target of all encodings that differ from the
    /// present one in a single code (with one codebook: the nearest other codeword; ties: the lower codebook, then the
    /// lower code), and changed[i] = 1. Groups with a target or scale that is of no use keep their codes.
    virtual void assign_different(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups) = 0;
    /// Of all changes of a single code of each group that which pays first as the step grows:
    /// scores[j] (f32 [groups]) = max over codes c of -<g, Delta_c> / |Delta_c|_D^2, D = sqrt(v * correction) +
    /// epsilon, g = gradient f32 [out, in], v = second_moment f32 or bf16; changes[j] (u32) = codebook * codebook_size
    /// + c (ties: the lowest). -infinity where there is nothing to change to.
    virtual void eager_score(Tensor scores, Tensor changes, const AdditiveCodes& additive, Tensor gradient,
                             Tensor second_moment, float correction, float epsilon) = 0;
    /// Groups groups[i] with scores[groups[i]] > 0 take changes[groups[i]] = codebook * codebook_size + code;
    /// changed[i] (u8) = it did. scores and changes [groups of the matrix], of which every one has as many of codes.
    virtual void apply_changes(Tensor codes, Tensor changed, Tensor changes, Tensor scores, Tensor groups,
                               std::int64_t codebook_size) = 0;

    // ---- choice of groups, and of what stays of their new codes; for any representation
    /// Of the changes in order of falling score (ties: the lower i first) those are kept that are among the first
    /// `most` of those with keep[i] (u8) not 0 and, where change (f32 [count], squared; may be empty) is given, whose
    /// running sum stays within trust_ratio^2 * weight_squares (f64 [1]); keep[i] becomes 0 for the others. scores f32
    /// [groups of the matrix], of which groups[i] belongs to change[i].
    virtual void bound_changes(Tensor keep, Tensor change, Tensor scores, Tensor groups, Tensor weight_squares,
                               double trust_ratio, std::int64_t most) = 0;
    /// keys[j] = inverse_temperature * log(scores[j]) + a Gumbel number of (seed, j): the n largest keys are n groups
    /// drawn without replacement with probabilities of scores^inverse_temperature (Gumbel-top-k, Kool et al. 2019).
    /// inverse_temperature 0: every group alike, whatever its score.
    virtual void sampling_keys(Tensor keys, Tensor scores, float inverse_temperature, std::uint64_t seed) = 0;
    /// indices[i] (u32 [count]) = (first + i) mod groups.
    virtual void round_robin(Tensor indices, std::int64_t first, std::int64_t groups) = 0;
    /// histogram (u32 [1024]) of scores f32: a bin is what a score's exponent and first two mantissa bits say,
    /// so that bins grow with the score. Negative scores and NaN are in none.
    virtual void score_histogram(Tensor histogram, Tensor scores) = 0;
    /// scores[groups[i]] = before[i] - after[i], all f32.
    virtual void scatter_difference(Tensor scores, Tensor before, Tensor after, Tensor groups) = 0;
    /// Stochastic rounding between two encodings at squared distances nearest[i] and second[i] (f32): keep[i] (u8) = 1,
    /// the second one, with probability d2^(-1/T) / (d1^(-1/T) + d2^(-1/T)) of the distances d (T = 1 between two
    /// scalars: unbiased), by a number of (seed, groups[i]).
    virtual void keep_by_chance(Tensor keep, Tensor nearest, Tensor second, Tensor groups, float temperature,
                                std::uint64_t seed) = 0;
    /// differ[i] (u8) = row i of a and of b, of any type, have different bytes.
    virtual void rows_differ(Tensor differ, Tensor a, Tensor b) = 0;
    /// history [groups, ...] holds what each group had before its last change. For every i with now[i] != before[i]
    /// (rows of any type): returned[i] (u8) = now[i] is history[groups[i]], which becomes before[i]; else 0.
    virtual void note_returns(Tensor returned, Tensor history, Tensor now, Tensor before, Tensor groups) = 0;

    // ---- E8P codes behind Hadamard transforms
    /// Every vector of the last dimension of values (f32) becomes its transform (host/backend/hadamard.h), in place.
    virtual void hadamard_transform(Tensor values) = 0;
    /// weight [out, in] f32 or bf16 = W.
    virtual void dequantize_lattice(Tensor weight, const LatticeCodes& lattice) = 0;
    /// out [1, rows] = in [1, columns] * W^T + bias [rows] f32 (may be empty): in is transformed, multiplied with the
    /// decoded codes, transformed again. in and out f32 or bf16.
    virtual void linear_from_lattice(Tensor out, Tensor in, const LatticeCodes& lattice, Tensor bias) = 0;
    /// Sets the gradients of scale, left and right (f32) from d_weight f32 [out, in].
    virtual void lattice_gradient(Tensor d_scale, Tensor d_left, Tensor d_right, Tensor d_weight,
                                  const LatticeCodes& lattice) = 0;
    /// d_weight f32 [out, in], the gradient of W, becomes that of X: H diag(left) d_weight diag(right) H.
    virtual void lattice_code_gradient(Tensor d_weight, const LatticeCodes& lattice) = 0;
    /// A V step's target, from that of W to that of X: target = X + D with D = H diag(left) (wanted - weight)
    /// diag(right) H, and scores[j] = |D|^2 over group j. target and wanted f32 [out, in] (may be one), weight (W as
    /// the model has it) f32 or bf16, scores f32 [groups]. Back from X by the transpose of its way to W: with signs
    /// that is the inverse, and where training took left and right from +-1 nothing is divided by one that came near 0.
    virtual void lattice_target(Tensor target, Tensor scores, Tensor wanted, Tensor weight,
                                const LatticeCodes& lattice) = 0;
    /// New codes for the groups groups[i] (as for assign_additive): the nearest E8P point to target / scale (target f32
    /// [out, in], of X), then the nearest to the residual; only where that is nearer than the present codes.
    virtual void assign_lattice(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups) = 0;
    /// change[i] (f32) = |X_groups[i] with the present codes - with saved[i] (u8 [count, bytes])|^2.
    virtual void lattice_change(Tensor change, const LatticeCodes& lattice, Tensor saved, Tensor groups) = 0;
    /// code_product, code_distance and assign_different of X; the changes of one code are those of the first (E8P) and,
    /// with 3 or 4 bits, of the residual's, the other kept.
    virtual void lattice_product(Tensor product, const LatticeCodes& lattice, Tensor matrix, Tensor saved,
                                 Tensor groups) = 0;
    virtual void lattice_distance(Tensor distance, const LatticeCodes& lattice, Tensor target, Tensor groups) = 0;
    virtual void lattice_different(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups) = 0;

    // ---- optimizer
    /// One Adam (LAMB) update of value with state first_moment, second_moment (all f32, one shape); none unless gate
    /// (f64 [1]; may be empty) is finite. copy (may be empty): bf16, the value that products read.
    virtual void adam(Tensor value, Tensor first_moment, Tensor second_moment, Tensor gradient, Tensor copy,
                      Tensor gate, const AdamSettings& settings) = 0;
    /// The V step's target and scores in two passes over d_weight:
    /// v = beta2 v + (1 - beta2) g^2; u = g / (sqrt(v / (1 - beta2^step)) + epsilon); target = base - rate * r * u with
    /// r = |base| / |u| (lamb) or 1; scores[j] = |target_j - current_j|^2 over each group of `group` weights.
    /// base may be target's own buffer (the straight-through buffer moves) or current (it restarts there).
    /// second_moment f32 or bf16: u is that of the stored v. One v a weight, or (f32) one for every 4, 8 or 16
    /// neighbours, for which g^2 is the mean of theirs: second_moment's size says which.
    virtual void moment_and_score(Tensor target, Tensor scores, Tensor second_moment, Tensor d_weight, Tensor base,
                                  Tensor current, std::int64_t group, const VStepSettings& settings) = 0;
    /// indices (u32 [count], ascending) of the `count` largest scores f32 [groups]; ties: the lower index first.
    virtual void select_largest(Tensor indices, Tensor scores) = 0;
    /// sum (f64 [1]) = sum of squares of values, f32 or bf16; not finite where a value is not.
    virtual void sum_of_squares(Tensor sum, Tensor values) = 0;
    /// sum (f64 [1]) of values f32.
    virtual void sum(Tensor total, Tensor values) = 0;
    /// total (u32 [1]) = how many of the flags (u8) are not 0.
    virtual void count_flags(Tensor total, Tensor flags) = 0;
    /// out += scale * in, both f32.
    virtual void add_scaled(Tensor out, Tensor in, float scale) = 0;
    /// out (f32 or bf16) = in (f32 or bf16), element by element.
    virtual void convert(Tensor out, Tensor in) = 0;
    /// out (bf16) = in (f32), each rounded to one of the two bf16 around it with the odds of their distances, so that
    /// the mean over seeds is `in`; the chance of element i is that of (seed, i).
    virtual void convert_by_chance(Tensor out, Tensor in, std::uint64_t seed) = 0;
    virtual void fill_zero(Tensor out) = 0;

    // ---- of some families of models
    /// swiglu_forward and swiglu_backward with gelu (its tanh approximation) instead of silu.
    virtual void geglu_forward(Tensor out, Tensor gate, Tensor up) = 0;
    virtual void geglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) = 0;
    /// hidden *= factor: embeddings that are scaled.
    virtual void scale(Tensor hidden, float factor) = 0;
    /// values (f32) = cap * tanh(values / cap): bounded logits.
    virtual void soft_cap_forward(Tensor values, float cap) = 0;
    /// d_values (f32 or bf16) *= 1 - (values / cap)^2, values f32 as soft_cap_forward left them.
    virtual void soft_cap_backward(Tensor d_values, Tensor values, float cap) = 0;

    // ---- codes under a Hessian, all rows at once; docs/calibration.md
    /// GPTQ (Frantar et al. 2022) on the grids of `scalar`: columns order[0], order[1], .. (u32 [in]) of weight f32
    /// [out, in] are rounded one after the other, order[j] to the code nearest to weight + sum over i < j of shares[j,
    /// i] * error_i, ties to the lower one; error_i = weight - value of column order[i]. shares f32 [in, in].
    virtual void gptq(const ScalarCodes& scalar, Tensor weight, Tensor shares, Tensor order) = 0;
    /// LDLQ (QuIP#, Tseng et al. 2024): groups of 8 columns of target f32 [out, in] one after the other take the E8P
    /// codes (u8 [out, in / 8, bytes], as in LatticeCodes) nearest to target + sum over the columns i before the group
    /// of shares[j, i] * error_i; error = target - decoded codes. shares f32 [in, in].
    virtual void ldlq(Tensor codes, Tensor target, Tensor shares) = 0;
    /// AQLM (Egiazarian et al. 2024): group after group takes the best codes beside all other groups' present ones, by
    /// a beam search from its own. quantized f32 [out, in] is What and gradient f32 [out, in] is G = (W - What)
    /// hessian, both of the codes (u16) before and after; hessian f32 [in, in]. factors f64 [in / group, 2, group,
    /// group]: the lower L of L L^T = H_gg and its inverse. The best codes are those nearest to (L^-1 G_g + L^T What_g)
    /// / scale in codebooks times L. What changes within `block` columns is seen by the rest of them at once, by others
    /// in one product.
    virtual void additive_sweep(const AdditiveCodes& additive, Tensor quantized, Tensor gradient, Tensor hessian,
                                Tensor factors, int beam, std::int64_t block) = 0;
    /// products[o] (f64 [rows]) = <a[o], b[o]>; a, b f32 [rows, width].
    virtual void row_products(Tensor products, Tensor a, Tensor b) = 0;
    /// products[o] (f64 [rows]) = a[o] hessian b[o]^T; hessian f32 [width, width], symmetric.
    virtual void hessian_products(Tensor products, Tensor a, Tensor b, Tensor hessian) = 0;
    /// values[o, i] *= factors[o], both f32.
    virtual void scale_rows(Tensor values, Tensor factors) = 0;
};

}  // namespace pvtune
