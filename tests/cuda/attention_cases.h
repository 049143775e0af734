#pragma once

#include "cuda/device_limits.h"
#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

#include <string>

/// Shapes, operands and expected results of the attention tests.
namespace pvtune::cuda {

inline AttentionSizes sizes_of(const AttentionShape& shape) {
    return {shape.sequences, shape.length, shape.heads, shape.kv_heads, shape.head_dim, shape.window, shape.cap};
}

inline std::string text_of(const AttentionShape& s) {
    return std::to_string(s.sequences) + " x " + std::to_string(s.length) + ", heads " + std::to_string(s.heads) + "/" +
           std::to_string(s.kv_heads) + " of " + std::to_string(s.head_dim) + ", window " + std::to_string(s.window) +
           ", cap " + std::to_string(s.cap);
}

/// Sequences that make at least `blocks` blocks of 128 rows: large work, however large the device.
inline std::int64_t sequences_for_blocks(std::int64_t blocks, std::int64_t heads, std::int64_t length) {
    const std::int64_t of_a_sequence = heads * ((length + 127) / 128);
    return (blocks + of_a_sequence - 1) / of_a_sequence;
}

/// Operands and what the CPU makes of them.
struct AttentionCase {
    AttentionShape shape;
    DType dtype;
    OwnedTensor q, k, v, d_out, out, log_sum_exp, d_q, d_k, d_v;

    AttentionCase(DType type, const AttentionShape& s) : shape(s), dtype(type) {
        const std::int64_t tokens = s.sequences * s.length;
        q = random_tensor(dtype, {tokens, s.heads, s.head_dim}, 1,
                          3);  // scores of a few units: a softmax far from even
        k = random_tensor(dtype, {tokens, s.kv_heads, s.head_dim}, 2);
        v = random_tensor(dtype, {tokens, s.kv_heads, s.head_dim}, 3);
        d_out = random_tensor(dtype, {tokens, s.heads, s.head_dim}, 4);
        out = OwnedTensor(dtype, {tokens, s.heads, s.head_dim});
        log_sum_exp = OwnedTensor(DType::f32, {s.heads, tokens});
        d_q = OwnedTensor(dtype, {tokens, s.heads, s.head_dim});
        d_k = OwnedTensor(dtype, {tokens, s.kv_heads, s.head_dim});
        d_v = OwnedTensor(dtype, {tokens, s.kv_heads, s.head_dim});
        run_on_cpu();
    }
    void run_on_cpu() {
        cpu::attention_forward(out, log_sum_exp, q, k, v, shape);
        cpu::attention_backward(d_q, d_k, d_v, d_out, out, log_sum_exp, q, k, v, shape);
    }
};

/// Calls body with T{} of the element type.
template <class Body>
void with_type(DType dtype, Body&& body) {
    if (dtype == DType::f32) return body(float{});
    return body(bf16{});
}

/// Weights and results are rounded to bf16 on both sides, sums are f32 in another order: two bf16 tolerances.
inline double attention_tolerance(DType dtype) { return dtype == DType::f32 ? 2 * f32_tolerance : 2 * bf16_tolerance; }

}  // namespace pvtune::cuda
