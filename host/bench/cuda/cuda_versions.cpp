// On CUDA devices: other versions of operations, and kernels that Ops does not have.
#include "cuda/attention_plain.h"
#include "host/bench/additive_operands.h"
#include "host/bench/attention_operands.h"

namespace pvtune {

namespace {

cuda::Stream stream_of(const BenchSetting& setting) { return static_cast<cuda::Stream>(setting.backend->stream()); }

/// Attention without tensor cores is the only one for f32 and for rows that are not made of 16-byte pieces.
void add_plain_attention(Registry& registry, const BenchSetting& setting) {
    const char* reason = "f32, and head_dim that is no multiple of 8";
    const auto sizes_of = [](const AttentionShape& s) {
        return cuda::AttentionSizes{s.sequences, s.length, s.heads, s.kv_heads, s.head_dim, s.window, s.cap};
    };
    add_version(registry, {"attention_forward", "plain", reason, [=](Operands& operands) {
                               const AttentionOperands a = attention_operands(operands, setting, false);
                               return attention_forward_call(setting, a, [=] {
                                   cuda::plain_attention_forward(a.out.as<bf16>(), a.log_sum_exp.as<float>(),
                                                                 a.q.as<bf16>(), a.k.as<bf16>(), a.v.as<bf16>(),
                                                                 sizes_of(a.shape), stream_of(setting));
                               });
                           }});
    add_version(registry,
                {"attention_backward", "plain", reason, [=](Operands& operands) {
                     const AttentionOperands a = attention_operands(operands, setting, true);
                     const cuda::AttentionSizes sizes = sizes_of(a.shape);
                     const Tensor scratch = operands.fresh(
                         DType::u8, {static_cast<std::int64_t>(cuda::plain_attention_backward_workspace(sizes))});
                     return attention_backward_call(setting, a, [=] {
                         cuda::plain_attention_backward(a.d_q.as<bf16>(), a.d_k.as<bf16>(), a.d_v.as<bf16>(),
                                                        a.d_out.as<bf16>(), a.out.as<bf16>(), a.log_sum_exp.as<float>(),
                                                        a.q.as<bf16>(), a.k.as<bf16>(), a.v.as<bf16>(), sizes,
                                                        scratch.data, stream_of(setting));
                     });
                 }});
}

}  // namespace

void add_cuda_versions(Registry& registry, const BenchSetting& setting) {
    if (setting.precision == DType::bf16 && setting.shape.head_dim % 8 == 0) add_plain_attention(registry, setting);
}

}  // namespace pvtune
