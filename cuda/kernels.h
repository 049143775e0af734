#pragma once

#include "io/dtype.h"

#include <cstddef>
#include <cstdint>

struct CUstream_st;

/// Every launcher of the CUDA backend. Pointers are device addresses, arrays row-major and contiguous, 16-byte aligned
/// at their first element; T is float or bf16. Work goes to `stream` and nothing waits for it. Gradients of parameters,
/// statistics and optimizer state are f32. A launcher throws CudaError when the device refuses the launch;
/// std::invalid_argument for a shape that its kernels do not cover, and above 2^32 - 1 groups (scalar: weights) a
/// matrix, scores or rotated elements, 2^31 - 1 rows of losses. `workspace` is scratch memory of at least the bytes
/// that the `..._workspace` function next to the launcher gives, 256-byte aligned; its content need not survive.
/// Results have the same bits on every run: no floating-point atomics.
namespace pvtune::cuda {

using Stream = CUstream_st*;

// ---- embedding.cu
/// hidden[t] = table[tokens[t]]; hidden [count, width], table [vocabulary, width].
template <class T>
void embedding_forward(T* hidden, const T* table, const std::uint32_t* tokens, std::int64_t count, std::int64_t width,
                       Stream stream);
/// d_table[tokens[t]] += d_hidden[t], in the order of t. d_table [vocabulary, width].
template <class T>
void embedding_backward(float* d_table, const T* d_hidden, const std::uint32_t* tokens, std::int64_t count,
                        std::int64_t width, std::int64_t vocabulary, void* workspace, Stream stream);
std::size_t embedding_backward_workspace(std::int64_t count, std::int64_t vocabulary);

// ---- rmsnorm.cu
/// out = in * inverse_rms * weight, inverse_rms[t] = 1 / sqrt(mean(in[t]^2) + epsilon); in, out [tokens, width].
template <class T>
void rmsnorm_forward(T* out, float* inverse_rms, const T* in, const float* weight, std::int64_t tokens,
                     std::int64_t width, float epsilon, Stream stream);
/// d_in += ..., d_weight += ... (null: not wanted; then workspace may be null).
template <class T>
void rmsnorm_backward(T* d_in, float* d_weight, const T* d_out, const T* in, const float* weight,
                      const float* inverse_rms, std::int64_t tokens, std::int64_t width, void* workspace,
                      Stream stream);
std::size_t rmsnorm_backward_workspace(std::int64_t tokens, std::int64_t width);

// ---- rope.cu
/// Rotates heads [tokens, heads, head_dim] in place, element i with i + half, i < half <= head_dim / 2; cosines, sines
/// [length, half], token t at position t mod length.
template <class T>
void rope_forward(T* heads, const float* cosines, const float* sines, std::int64_t tokens, std::int64_t head_count,
                  std::int64_t head_dim, std::int64_t half, std::int64_t length, Stream stream);
/// The transposed rotation.
template <class T>
void rope_backward(T* d_heads, const float* cosines, const float* sines, std::int64_t tokens, std::int64_t head_count,
                   std::int64_t head_dim, std::int64_t half, std::int64_t length, Stream stream);

// ---- swiglu.cu
/// out = silu(gate) * up, `count` elements.
template <class T>
void swiglu_forward(T* out, const T* gate, const T* up, std::int64_t count, Stream stream);
/// Sets d_gate, d_up, and out to what swiglu_forward gave. d_gate may be gate's own buffer, d_up up's, out d_out's.
template <class T>
void swiglu_backward(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up, std::int64_t count,
                     Stream stream);

/// The same with gelu (its tanh approximation) instead of silu.
template <class T>
void geglu_forward(T* out, const T* gate, const T* up, std::int64_t count, Stream stream);
template <class T>
void geglu_backward(T* d_gate, T* d_up, T* out, const T* d_out, const T* gate, const T* up, std::int64_t count,
                    Stream stream);

// ---- soft_cap.cu
/// values[i] = cap * tanh(values[i] / cap).
void soft_cap_forward(float* values, float cap, std::int64_t count, Stream stream);
/// d_values[i] *= 1 - (values[i] / cap)^2, values as soft_cap_forward left them.
template <class T>
void soft_cap_backward(T* d_values, const float* values, float cap, std::int64_t count, Stream stream);

// ---- elementwise.cu
/// values[i] *= factor.
template <class T>
void scale(T* values, float factor, std::int64_t count, Stream stream);
/// out = a + b; out may be a or b.
template <class T>
void add(T* out, const T* a, const T* b, std::int64_t count, Stream stream);
/// out[i] += scale * in[i].
void add_scaled(float* out, const float* in, float scale, std::int64_t count, Stream stream);
/// out = in, converted.
template <class To, class From>
void convert(To* out, const From* in, std::int64_t count, Stream stream);
/// out = in, each rounded to one of the two bf16 around it with the odds of their distances: chance (seed, i).
void convert_by_chance(bf16* out, const float* in, std::uint64_t seed, std::int64_t count, Stream stream);
/// out [tokens, width] += bias [width].
template <class T>
void add_bias(T* out, const float* bias, std::int64_t tokens, std::int64_t width, Stream stream);

// ---- column_sum.cu
/// d_bias[j] += sum over t of d_out[t, j]; d_out [tokens, width].
template <class T>
void column_sum(float* d_bias, const T* d_out, std::int64_t tokens, std::int64_t width, void* workspace, Stream stream);
std::size_t column_sum_workspace(std::int64_t tokens, std::int64_t width);

// ---- attention_forward.cu, attention_backward.cu, attention_decode.cu
/// Geometry of causal attention over packed sequences; query head h reads key/value head h / (heads / kv_heads).
/// q, out [sequences * length, heads, head_dim]; k, v [.., kv_heads, head_dim]; log_sum_exp [heads, tokens].
struct AttentionSizes {
    std::int64_t sequences = 0, length = 0;
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
    std::int64_t window = 0;  ///< a token sees itself and the window - 1 before it; 0: all before it
    float cap = 0;            ///< scores become cap * tanh(score / cap); 0: they stay
};
/// Causal softmax(q k^T / sqrt(head_dim)) v. head_dim a multiple of 2 up to 256.
template <class T>
void attention_forward(T* out, float* log_sum_exp, const T* q, const T* k, const T* v, const AttentionSizes& sizes,
                       Stream stream);
/// Sets d_q, d_k, d_v.
template <class T>
void attention_backward(T* d_q, T* d_k, T* d_v, const T* d_out, const T* out, const float* log_sum_exp, const T* q,
                        const T* k, const T* v, const AttentionSizes& sizes, void* workspace, Stream stream);
std::size_t attention_backward_workspace(const AttentionSizes& sizes, DType dtype);
/// One new token against a cache: q, out [heads, head_dim]; keys, values [capacity, kv_heads, head_dim], of which the
/// first sizes.length rows count; sizes.sequences is 1.
template <class T>
void attention_decode(T* out, const T* q, const T* keys, const T* values, const AttentionSizes& sizes, void* workspace,
                      Stream stream);
std::size_t attention_decode_workspace(const AttentionSizes& sizes);

// ---- loss.cu
/// loss[t] = KL(softmax(teacher[t]) || softmax(logits[t])); d_logits = scale * d loss / d logits. logits, teacher
/// [rows, vocabulary] f32; d_logits of type T may be null, or (T = float) logits' own buffer.
template <class T>
void kl_loss(float* loss, T* d_logits, const float* logits, const float* teacher, std::int64_t rows,
             std::int64_t vocabulary, float scale, Stream stream);
/// loss[t] = -log softmax(logits[t])[targets[t]]; d_logits as in kl_loss.
template <class T>
void cross_entropy_loss(float* loss, T* d_logits, const float* logits, const std::uint32_t* targets, std::int64_t rows,
                        std::int64_t vocabulary, float scale, Stream stream);

// ---- mse_loss.cu
/// losses[t] = mean((out[t] - target[t])^2) over a row, f32 [rows]; d_out = scale * (out - target), may be null or
/// out's own buffer; all [rows, width].
template <class T>
void mse_loss(float* losses, T* d_out, const T* out, const T* target, std::int64_t rows, std::int64_t width,
              float scale, Stream stream);

// ---- additive codebooks
/// W[o, g * group + i] = scales[o] * sum_m codebooks[m, codes[o, g, m], i]. codes [rows, groups, books] u8 (books of up
/// to 2^8) or u16; codebooks [books, codebook_size, group] f32; scales [rows] f32. books 1 to 8, group 4, 8 or 16.
template <class Code>
struct AdditiveView {
    Code* codes = nullptr;
    const float* codebooks = nullptr;
    const float* scales = nullptr;
    std::int64_t rows = 0, groups = 0, books = 0, codebook_size = 0, group = 0;
};
// dequantize_additive.cu
/// weight [rows, groups * group] = W.
template <class T, class Code>
void dequantize_additive(T* weight, const AdditiveView<Code>& additive, Stream stream);
// dequantize_gemv.cu
/// out [rows] = W in, W never in memory; in [groups * group]. `bias` [rows] f32 may be null. Codebooks that fit into
/// shared memory are rounded to T.
template <class T, class Code>
void dequantize_gemv(T* out, const T* in, const float* bias, const AdditiveView<Code>& additive, Stream stream);
// additive_gradient.cu
/// d_codebooks[m, k] = sum of scales[o] * d_weight_group over the groups whose m-th code is k, in a fixed order or
/// (large codebooks) in 64-bit fixed point; d_scales[o] = <d_weight[o], W[o] / scales[o]>. d_weight [rows, groups *
/// group] f32. Not finite when a gradient is not.
template <class Code>
void additive_gradient(float* d_codebooks, float* d_scales, const float* d_weight, const AdditiveView<Code>& additive,
                       void* workspace, Stream stream);
template <class Code>
std::size_t additive_gradient_workspace(const AdditiveView<Code>& additive);
// assign_additive.cu
/// New codes for the groups chosen[i] (flat index o * groups + g, [count]) nearest to target [rows, groups * group], by
/// beam search (beam 1 to 8) that starts from the present codes; changed[i] = any code differs from before. chosen has
/// no index twice. The search of host/backend/cpu/beam_search.cpp: same sweeps, same ties.
template <class Code>
void assign_additive(const AdditiveView<Code>& additive, std::uint8_t* changed, const float* target,
                     const std::uint32_t* chosen, std::int64_t count, int beam, void* workspace, Stream stream);
template <class Code>
std::size_t assign_additive_workspace(const AdditiveView<Code>& additive, std::int64_t count, int beam);
// kmeans_assign.cu
/// codes[i] = index of the row of centres [centre_count, dim] nearest to points[i]; ties: the lower index. points
/// [count, dim] f32, dim 4, 8 or 16; at most 2^16 centres. A point that is not finite keeps its code.
void kmeans_assign(std::uint16_t* codes, const float* points, const float* centres, std::int64_t count,
                   std::int64_t centre_count, std::int64_t dim, Stream stream);
// search_codes.cu
/// What data-free codes are looked for in: points [count, group], codebooks [books, codebook_size, group].
struct CodeSearch {
    std::int64_t count = 0, books = 0, codebook_size = 0, group = 0;
    int beam = 1;    ///< 1 to 8; one codebook needs none
    int sweeps = 1;  ///< times that every codebook is gone through
};
/// codes [count, books] become the nearest that a beam search from the present ones finds, as assign_additive's. A
/// point that is not finite keeps its codes.
void search_codes(std::uint16_t* codes, const float* points, const float* codebooks, const CodeSearch& wanted,
                  void* workspace, Stream stream);
std::size_t search_codes_workspace(const CodeSearch& wanted);
// code_changes.cu
/// saved [count, width] = the codes of chosen[i]; codes [groups, width].
template <class Code>
void gather_codes(Code* saved, const Code* codes, const std::uint32_t* chosen, std::int64_t count, std::int64_t width,
                  Stream stream);
/// change[i] = |W_group with the present codes - with saved[i]|^2.
template <class Code>
void code_change(float* change, const AdditiveView<Code>& additive, const Code* saved, const std::uint32_t* chosen,
                 std::int64_t count, Stream stream);
/// Puts saved[i] back wherever keep[i] is 0.
template <class Code>
void restore_codes(Code* codes, const Code* saved, const std::uint32_t* chosen, const std::uint8_t* keep,
                   std::int64_t count, std::int64_t width, Stream stream);
/// product[i] = <matrix_group, W_group with the present codes - with saved[i]>; matrix [rows, groups * group].
template <class Code>
void code_product(float* product, const AdditiveView<Code>& additive, const float* matrix, const Code* saved,
                  const std::uint32_t* chosen, std::int64_t count, Stream stream);
/// distance[i] = |target_group - W_group|^2; target [rows, groups * group].
template <class Code>
void code_distance(float* distance, const AdditiveView<Code>& additive, const float* target,
                   const std::uint32_t* chosen, std::int64_t count, Stream stream);
/// keep[i] &= the changes in order of falling score (ties: the lower i first) that are among the first `most` with
/// keep[i] and, unless change is null, whose running sum of `change` stays within trust_ratio^2 * weight_squares[0]
/// (device, f64). scores [groups] indexed by chosen[i].
void bound_changes(std::uint8_t* keep, const float* change, const float* scores, const std::uint32_t* chosen,
                   std::int64_t count, const double* weight_squares, double trust_ratio, std::int64_t most,
                   void* workspace, Stream stream);
std::size_t bound_changes_workspace(std::int64_t count);

// ---- scalar grids
/// W[o, i] = scales[o, g] * (codes[o, i] - zeros[o, g]), g = i / group. codes [rows, columns]; scales, zeros
/// [rows, ceil(columns / group)] f32; codes are below `levels`, 2 to 256.
struct ScalarView {
    std::uint8_t* codes = nullptr;
    const float* scales = nullptr;
    const float* zeros = nullptr;
    std::int64_t rows = 0, columns = 0, group = 0, levels = 0;
};
// dequantize_scalar.cu
/// weight [rows, columns] = W.
template <class T>
void dequantize_scalar(T* weight, const ScalarView& scalar, Stream stream);
// scalar_gemv.cu
/// out [rows] = W in, W never in memory; in [columns]. `bias` [rows] f32 may be null.
template <class T>
void scalar_gemv(T* out, const T* in, const float* bias, const ScalarView& scalar, Stream stream);
// scalar_gradient.cu
/// d_scales[o, g] = sum of d_weight * (code - zero), d_zeros[o, g] = -scale * sum of d_weight; d_weight [rows,
/// columns].
void scalar_gradient(float* d_scales, float* d_zeros, const float* d_weight, const ScalarView& scalar, Stream stream);
// assign_scalar.cu
/// New codes for the weights chosen[i] (flat index, [count], none twice) nearest to target [rows, columns], ties to the
/// lower code; a weight whose target or grid is not finite, or whose scale is 0, keeps its code. changed[i]: it
/// differs.
void assign_scalar(const ScalarView& scalar, std::uint8_t* changed, const float* target, const std::uint32_t* chosen,
                   std::int64_t count, Stream stream);
/// change[i] = |W_chosen[i] with the present code - with saved[i]|^2.
void scalar_change(float* change, const ScalarView& scalar, const std::uint8_t* saved, const std::uint32_t* chosen,
                   std::int64_t count, Stream stream);
// scalar_changes.cu
/// product[i] = matrix[chosen[i]] * (W_chosen[i] with the present code - with saved[i]); matrix [rows, columns].
void scalar_product(float* product, const ScalarView& scalar, const float* matrix, const std::uint8_t* saved,
                    const std::uint32_t* chosen, std::int64_t count, Stream stream);
/// distance[i] = |target_chosen[i] - W_chosen[i]|^2; target [rows, columns].
void scalar_distance(float* distance, const ScalarView& scalar, const float* target, const std::uint32_t* chosen,
                     std::int64_t count, Stream stream);
/// Where changed[i] is 0: the nearest to target of the codes that are not the present one of chosen[i] (ties: the
/// lower), and changed[i] = 1; what assign_scalar leaves alone stays.
void scalar_different(const ScalarView& scalar, std::uint8_t* changed, const float* target, const std::uint32_t* chosen,
                      std::int64_t count, Stream stream);
/// For every weight: changes[j] = the next code against the slope gradient * scale, scores[j] = |gradient| / (|scale| *
/// D), D = sqrt(second_moment * correction) + epsilon; -infinity and the present code where there is none.
/// gradient, second_moment [rows, columns]; scores, changes one a weight.
template <class Moment>
void scalar_eager_score(float* scores, std::uint32_t* changes, const ScalarView& scalar, const float* gradient,
                        const Moment* second_moment, float correction, float epsilon, Stream stream);
// single_change.cu
/// Where changed[i] is 0: the nearest to target of the encodings that differ from the present one of chosen[i] in one
/// code (ties: the lower codebook, then code), and changed[i] = 1. Unusable targets and scales leave the group as it
/// is.
template <class Code>
void assign_different(const AdditiveView<Code>& additive, std::uint8_t* changed, const float* target,
                      const std::uint32_t* chosen, std::int64_t count, Stream stream);
/// scores[j], changes[j] (codebook * codebook_size + code) for every group: the change of one code with the largest
/// -<g, Delta> / |Delta|_D^2, D = sqrt(second_moment * correction) + epsilon; ties: the lowest change; -infinity where
/// there is none. gradient, second_moment [rows, groups * group].
template <class Code, class Moment>
void eager_score(float* scores, std::uint32_t* changes, const AdditiveView<Code>& additive, const float* gradient,
                 const Moment* second_moment, float correction, float epsilon, Stream stream);
/// Makes changes[chosen[i]] = codebook * codebook_size + code where scores[chosen[i]] > 0; changed[i] = it did. codes
/// [groups, width].
template <class Code>
void apply_changes(Code* codes, std::uint8_t* changed, const std::uint32_t* changes, const float* scores,
                   const std::uint32_t* chosen, std::int64_t count, std::int64_t width, std::int64_t codebook_size,
                   Stream stream);

// ---- subspace.cu: the functions of Ops of the same names, for any representation
void sampling_keys(float* keys, const float* scores, std::int64_t count, float inverse_temperature, std::uint64_t seed,
                   Stream stream);
void round_robin(std::uint32_t* indices, std::int64_t count, std::int64_t first, std::int64_t groups, Stream stream);
/// histogram [1024].
void score_histogram(std::uint32_t* histogram, const float* scores, std::int64_t count, Stream stream);
void scatter_difference(float* scores, const float* before, const float* after, const std::uint32_t* chosen,
                        std::int64_t count, Stream stream);
void keep_by_chance(std::uint8_t* keep, const float* nearest, const float* second, const std::uint32_t* chosen,
                    std::int64_t count, float temperature, std::uint64_t seed, Stream stream);
/// a, b [rows, row_bytes].
void rows_differ(std::uint8_t* differ, const std::byte* a, const std::byte* b, std::int64_t rows,
                 std::int64_t row_bytes, Stream stream);
/// now, before [rows, row_bytes]; history [groups, row_bytes]; chosen has no index twice.
void note_returns(std::uint8_t* returned, std::byte* history, const std::byte* now, const std::byte* before,
                  const std::uint32_t* chosen, std::int64_t rows, std::int64_t row_bytes, Stream stream);

// ---- E8P codes behind Hadamard transforms
// hadamard.cu
/// Every row of values [rows, size] becomes its transform (host/backend/hadamard.h), in place: M (x) S with a Sylvester
/// matrix S of size / order, a power of two, and M = factor [order, order] f32, symmetric. size up to what a block's
/// shared memory holds: 16384 at least.
void hadamard_transform(float* values, std::int64_t rows, std::int64_t size, const float* factor, std::int64_t order,
                        Stream stream);
/// W = diag(left) H X H diag(right), X[o, g * 8 + i] = scale[0] * decode(codes[o, g])[i] by cuda/e8p.h. codes [rows,
/// groups, bytes] u8, 2 to 4 bytes a group of 8 weights; left [rows], right [groups * 8] f32.
struct LatticeView {
    std::uint8_t* codes = nullptr;
    const float* scale = nullptr;
    const float* left = nullptr;
    const float* right = nullptr;
    std::int64_t rows = 0, groups = 0, bytes = 0;

    std::int64_t columns() const { return groups * 8; }
};
/// The dense factor of a transform (host/backend/hadamard.h) in device memory.
struct DenseFactor {
    const float* matrix = nullptr;
    std::int64_t order = 1;
};
// lattice_weight.cu
/// weight [rows, columns] = W; of_rows, of_columns: the factors for vectors of `rows` and of `columns` elements.
template <class T>
void dequantize_lattice(T* weight, const LatticeView& lattice, const DenseFactor& of_rows,
                        const DenseFactor& of_columns, void* workspace, Stream stream);
/// d_weight [rows, columns] becomes H diag(left) d_weight diag(right) H.
void lattice_code_gradient(float* d_weight, const LatticeView& lattice, const DenseFactor& of_rows,
                           const DenseFactor& of_columns, void* workspace, Stream stream);
/// target [rows, columns] = X + D with D = H diag(left) (wanted - weight) diag(right) H; scores[j] = |D|^2 over group
/// j. target may be wanted.
template <class T>
void lattice_target(float* target, float* scores, const float* wanted, const T* weight, const LatticeView& lattice,
                    const DenseFactor& of_rows, const DenseFactor& of_columns, void* workspace, Stream stream);
/// Sets d_scale [1], d_left [rows], d_right [columns] from d_weight [rows, columns].
void lattice_gradient(float* d_scale, float* d_left, float* d_right, const float* d_weight, const LatticeView& lattice,
                      const DenseFactor& of_rows, const DenseFactor& of_columns, void* workspace, Stream stream);
/// Of all four.
std::size_t lattice_weight_workspace(std::int64_t rows, std::int64_t columns);
// lattice_gemv.cu
/// out [rows] = W in + bias, W never in memory; in [columns], bias [rows] f32 may be null.
template <class T>
void lattice_gemv(T* out, const T* in, const float* bias, const LatticeView& lattice, const DenseFactor& of_rows,
                  const DenseFactor& of_columns, void* workspace, Stream stream);
std::size_t lattice_gemv_workspace(std::int64_t rows, std::int64_t columns);
// assign_lattice.cu
/// New codes for the groups chosen[i] (flat index o * groups + g, [count], none twice) of target [rows, columns]: the
/// E8P point nearest to target / scale, then the nearest to the residual, where that is nearer than the present codes;
/// changed[i] = it is. The search of host/backend/cpu/e8p_search.cpp: same ties.
void assign_lattice(const LatticeView& lattice, std::uint8_t* changed, const float* target, const std::uint32_t* chosen,
                    std::int64_t count, Stream stream);
/// change[i] = |X_group with the present codes - with saved[i] ([count, bytes])|^2.
void lattice_change(float* change, const LatticeView& lattice, const std::uint8_t* saved, const std::uint32_t* chosen,
                    std::int64_t count, Stream stream);
// lattice_changes.cu
/// Where changed[i] is 0: of the groups that differ from chosen[i] in one code (E8P or residual) the nearest to target
/// (ties: in the first code, then as assign_lattice has them), and changed[i] = 1. Unusable targets and scales leave
/// the group as it is.
void lattice_different(const LatticeView& lattice, std::uint8_t* changed, const float* target,
                       const std::uint32_t* chosen, std::int64_t count, Stream stream);
/// distance[i] = |target_group - X_group|^2; target [rows, columns].
void lattice_distance(float* distance, const LatticeView& lattice, const float* target, const std::uint32_t* chosen,
                      std::int64_t count, Stream stream);
/// product[i] = <matrix_group, X_group with the present codes - with saved[i]>; matrix [rows, columns].
void lattice_product(float* product, const LatticeView& lattice, const float* matrix, const std::uint8_t* saved,
                     const std::uint32_t* chosen, std::int64_t count, Stream stream);

// ---- adam.cu
struct AdamRates {
    float rate = 0, beta1 = 0.9F, beta2 = 0.95F, epsilon = 1e-8F;
    bool lamb = true;
    std::int64_t step = 1;
};
/// One Adam (LAMB) update of `count` elements, none unless gate[0] (device, f64; may be null) is finite; copy (bf16,
/// the value that products read) may be null. step is 1 on the first update; lamb scales the update to rate * |value| /
/// |update|.
void adam(float* value, float* first_moment, float* second_moment, const float* gradient, bf16* copy,
          const double* gate, std::int64_t count, const AdamRates& rates, void* workspace, Stream stream);
std::size_t adam_workspace(std::int64_t count);

// ---- moment_and_score.cu
struct VStepRates {
    float rate = 1e-2F, beta2 = 0.95F, epsilon = 1e-8F;
    bool lamb = true;
    std::int64_t step = 1;
};
/// v = beta2 v + (1 - beta2) g^2; u = g / (sqrt(v / (1 - beta2^step)) + epsilon); target = base - rate * r * u,
/// r = |base| / |u| (lamb) or 1; scores[j] = |target_j - current_j|^2 over each group of `group` weights, 1, 4, 8
/// or 16. base may be target's buffer or current's. target, d_weight [count] f32; second_moment [count / moment_group],
/// base, current f32 or bf16, u from the v that is stored. moment_group: 1, or (f32) 4, 8 or 16 neighbours that share
/// a v, which follows the mean of their g^2.
template <class Moment, class Base, class Current>
void moment_and_score(float* target, float* scores, Moment* second_moment, const float* d_weight, const Base* base,
                      const Current* current, std::int64_t count, std::int64_t group, std::int64_t moment_group,
                      const VStepRates& rates, void* workspace, Stream stream);
std::size_t moment_and_score_workspace(std::int64_t count);

// ---- select_largest.cu
/// indices [wanted], ascending: the `wanted` largest of scores [count]; ties: the lower index first.
void select_largest(std::uint32_t* indices, const float* scores, std::int64_t wanted, std::int64_t count,
                    void* workspace, Stream stream);
std::size_t select_largest_workspace(std::int64_t wanted, std::int64_t count);

// ---- sum_of_squares.cu
/// sum[0] (device, f64) = sum of squares of values, f32 or bf16. Not finite when a value is not.
template <class T>
void sum_of_squares(double* sum, const T* values, std::int64_t count, void* workspace, Stream stream);
std::size_t sum_of_squares_workspace(std::int64_t count);
/// total[0] (device, f64) = sum of values; the workspace of sum_of_squares.
void sum(double* total, const float* values, std::int64_t count, void* workspace, Stream stream);
/// total[0] = how many of flags[0 .. count) are not 0.
void count_flags(std::uint32_t* total, const std::uint8_t* flags, std::int64_t count, Stream stream);

// ---- codes under a Hessian: kernels of a block of columns; host/backend/cuda/*_sweep.cpp join them to sweeps
inline constexpr std::int64_t sweep_columns = 128;  ///< of a block
// gptq.cu
/// Rounds the columns order[first .. first + count) of weight [rows, columns], at most sweep_columns of them, one after
/// the other to the codes nearest to weight + feedback[o, first + j] + sum over the block's i < j of shares[first + j,
/// first + i] * errors[o, i]; errors [rows, count] = weight - value. feedback [rows, columns] and shares [columns,
/// columns] go by places in the order.
void gptq_block(const ScalarView& scalar, float* errors, const float* feedback, const float* weight,
                const float* shares, const std::uint32_t* order, std::int64_t first, std::int64_t count, Stream stream);
// ldlq.cu
/// Gives the groups of 8 columns in [first, first + count) of target [rows, columns], at most sweep_columns, one after
/// the other the E8P codes (codes [rows, columns / 8, bytes], 2 to 4 bytes) nearest to target + feedback + sum over the
/// block's columns i before the group of shares[j, first + i] * errors[o, i]; errors [rows, count] = target - decoded
/// codes. feedback [rows, columns], shares [columns, columns].
void ldlq_block(std::uint8_t* codes, float* errors, const float* feedback, const float* target, const float* shares,
                std::int64_t rows, std::int64_t columns, std::int64_t bytes, std::int64_t first, std::int64_t count,
                Stream stream);
// additive_group.cu
using SweptCodes = AdditiveView<std::uint16_t>;
/// New codes for the group at `column` of the block [first, first + width) of an Ops::additive_sweep, for all rows.
/// gradient [rows, columns] is G before the block, change [rows, width] what the block's groups before this one have
/// changed in quantized [rows, columns]; the group adds its own. hessian [columns, columns]; factors [groups, 2, group,
/// group].
void additive_group(const SweptCodes& additive, float* quantized, float* change, const float* gradient,
                    const float* hessian, const double* factors, std::int64_t first, std::int64_t width,
                    std::int64_t column, int beam, void* workspace, Stream stream);
std::size_t additive_group_workspace(const SweptCodes& additive, int beam);
// row_products.cu
/// products[o] = <a[o], b[o]>; a, b [rows, columns].
void row_products(double* products, const float* a, const float* b, std::int64_t rows, std::int64_t columns,
                  Stream stream);
/// values[o, i] *= factors[o]; values [rows, columns].
void scale_rows(float* values, const float* factors, std::int64_t rows, std::int64_t columns, Stream stream);

// ---- hessian.cu
/// hessian [width, width], symmetric, += factor * in^T in, in [tokens, width], f32 accumulation in a fixed order. Its
/// lower triangle is read; both are written.
template <class T>
void hessian_accumulate(float* hessian, const T* in, std::int64_t tokens, std::int64_t width, float factor,
                        Stream stream);

}  // namespace pvtune::cuda
