#pragma once

#include "host/backend/ops.h"

namespace pvtune::cpu {

// The model's operations on the CPU, one file each; shapes and meaning are documented in host/backend/ops.h.
// The operations on quantised matrices and the optimizer are in quant_ops.h.

void embedding_forward(Tensor hidden, Tensor table, Tensor tokens);
void embedding_backward(Tensor d_table, Tensor d_hidden, Tensor tokens);
void rmsnorm_forward(Tensor out, Tensor inverse_rms, Tensor in, Tensor weight, float epsilon);
void rmsnorm_backward(Tensor d_in, Tensor d_weight, Tensor d_out, Tensor in, Tensor weight, Tensor inverse_rms);
void linear_forward(Tensor out, Tensor in, Tensor weight, Tensor bias);
void linear_backward_input(Tensor d_in, Tensor d_out, Tensor weight, bool accumulate);
void linear_backward_weight(Tensor d_weight, Tensor d_out, Tensor in, bool accumulate);
void column_sum(Tensor d_bias, Tensor d_out);
void scale(Tensor hidden, float factor);
void soft_cap_forward(Tensor values, float cap);
void soft_cap_backward(Tensor d_values, Tensor values, float cap);
void rope_forward(Tensor heads, Tensor cosines, Tensor sines);
void rope_backward(Tensor d_heads, Tensor cosines, Tensor sines);
void attention_forward(Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v, const AttentionShape& shape);
void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor out, Tensor log_sum_exp, Tensor q,
                        Tensor k, Tensor v, const AttentionShape& shape);
void attention_decode(Tensor out, Tensor q, Tensor keys, Tensor values, const AttentionShape& shape);
void swiglu_forward(Tensor out, Tensor gate, Tensor up);
void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up);
void geglu_forward(Tensor out, Tensor gate, Tensor up);
void geglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up);
void add(Tensor out, Tensor a, Tensor b);
void kl_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor teacher, float scale);
void cross_entropy_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor targets, float scale);
void mse_loss(Tensor losses, Tensor d_out, Tensor out, Tensor target, float scale);
void hessian_accumulate(Tensor hessian, Tensor in);
void add_scaled(Tensor out, Tensor in, float scale);
void convert(Tensor out, Tensor in);
void convert_by_chance(Tensor out, Tensor in, std::uint64_t seed);
void fill_zero(Tensor out);

}  // namespace pvtune::cpu
