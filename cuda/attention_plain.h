#pragma once

// Attention without tensor cores, any even head_dim up to 256: for f32, which serves comparisons with the CPU, and for
// bf16 rows that are not made of 16-byte pieces. Written to be clear, not fast.

#include "cuda/kernels.h"

namespace pvtune::cuda {

template <class T>
void plain_attention_forward(T* out, float* log_sum_exp, const T* q, const T* k, const T* v,
                             const AttentionSizes& sizes, Stream stream);
/// workspace: plain_attention_backward_workspace(sizes) bytes.
template <class T>
void plain_attention_backward(T* d_q, T* d_k, T* d_v, const T* d_out, const T* out, const float* log_sum_exp,
                              const T* q, const T* k, const T* v, const AttentionSizes& sizes, void* workspace,
                              Stream stream);
std::size_t plain_attention_backward_workspace(const AttentionSizes& sizes);

}  // namespace pvtune::cuda
