#pragma once

#include "cuda/gemm.h"
#include "cuda/kernels.h"
#include "host/backend/cuda/memory.h"
#include "host/backend/dispatch.h"
#include "host/backend/ops.h"

namespace pvtune::cuda {

inline AttentionSizes sizes_of(const AttentionShape& shape) {
    return {shape.sequences, shape.length, shape.heads, shape.kv_heads, shape.head_dim, shape.window, shape.cap};
}

inline float* optional_floats(Tensor tensor) { return tensor.empty() ? nullptr : tensor.as<float>(); }

/// The operations of the model, its losses and its Hessians; CudaOps adds those of codes and of the optimizer.
class ModelOps : public Ops {
public:
    ModelOps(Stream stream, Workspace& workspace, Gemm& gemm) : stream_(stream), workspace_(workspace), gemm_(gemm) {}

    void embedding_forward(Tensor hidden, Tensor table, Tensor tokens) override {
        with_float_type(hidden.dtype, [&]<class T>() {
            cuda::embedding_forward(hidden.as<T>(), table.as<T>(), tokens.as<std::uint32_t>(), tokens.elements(),
                                    table.dim(1), stream_);
        });
    }
    void embedding_backward(Tensor d_table, Tensor d_hidden, Tensor tokens) override {
        void* scratch = workspace_.get(embedding_backward_workspace(tokens.elements(), d_table.dim(0)));
        with_float_type(d_hidden.dtype, [&]<class T>() {
            cuda::embedding_backward(d_table.as<float>(), d_hidden.as<T>(), tokens.as<std::uint32_t>(),
                                     tokens.elements(), d_table.dim(1), d_table.dim(0), scratch, stream_);
        });
    }

    void rmsnorm_forward(Tensor out, Tensor inverse_rms, Tensor in, Tensor weight, float epsilon) override {
        with_float_type(in.dtype, [&]<class T>() {
            cuda::rmsnorm_forward(out.as<T>(), inverse_rms.as<float>(), in.as<T>(), weight.as<float>(),
                                  in.elements() / weight.elements(), weight.elements(), epsilon, stream_);
        });
    }
    void rmsnorm_backward(Tensor d_in, Tensor d_weight, Tensor d_out, Tensor in, Tensor weight,
                          Tensor inverse_rms) override {
        const std::int64_t width = weight.elements();
        const std::int64_t tokens = in.elements() / width;
        void* scratch = d_weight.empty() ? nullptr : workspace_.get(rmsnorm_backward_workspace(tokens, width));
        with_float_type(in.dtype, [&]<class T>() {
            cuda::rmsnorm_backward(d_in.as<T>(), optional_floats(d_weight), d_out.as<T>(), in.as<T>(),
                                   weight.as<float>(), inverse_rms.as<float>(), tokens, width, scratch, stream_);
        });
    }

    void linear_forward(Tensor out, Tensor in, Tensor weight, Tensor bias) override {
        Product product;
        product.m = in.elements() / weight.dim(1);
        product.n = weight.dim(0);
        product.k = weight.dim(1);
        product.dtype = in.dtype;
        product.left = in.data;
        product.right = weight.data;
        product.right_transposed = true;
        product.result_dtype = out.dtype;
        product.result = out.data;
        gemm_.run(product, stream_);
        if (bias.empty()) return;
        with_float_type(out.dtype,
                        [&]<class T>() { add_bias(out.as<T>(), bias.as<float>(), product.m, product.n, stream_); });
    }
    void linear_backward_input(Tensor d_in, Tensor d_out, Tensor weight, bool accumulate) override {
        Product product;
        product.m = d_out.elements() / weight.dim(0);
        product.n = weight.dim(1);
        product.k = weight.dim(0);
        product.dtype = d_out.dtype;
        product.left = d_out.data;
        product.right = weight.data;
        product.result_dtype = d_in.dtype;
        product.result = d_in.data;
        product.accumulate = accumulate;
        gemm_.run(product, stream_);
    }
    void linear_backward_weight(Tensor d_weight, Tensor d_out, Tensor in, bool accumulate) override {
        Product product;
        product.m = d_weight.dim(0);
        product.n = d_weight.dim(1);
        product.k = in.elements() / product.n;
        product.dtype = in.dtype;
        product.left = d_out.data;
        product.left_transposed = true;
        product.right = in.data;
        product.result_dtype = DType::f32;
        product.result = d_weight.data;
        product.accumulate = accumulate;
        gemm_.run(product, stream_);
    }
    void column_sum(Tensor d_bias, Tensor d_out) override {
        const std::int64_t width = d_bias.elements();
        const std::int64_t tokens = d_out.elements() / width;
        void* scratch = workspace_.get(column_sum_workspace(tokens, width));
        with_float_type(d_out.dtype, [&]<class T>() {
            cuda::column_sum(d_bias.as<float>(), d_out.as<T>(), tokens, width, scratch, stream_);
        });
    }

    void scale(Tensor hidden, float factor) override {
        with_float_type(hidden.dtype,
                        [&]<class T>() { cuda::scale(hidden.as<T>(), factor, hidden.elements(), stream_); });
    }
    void soft_cap_forward(Tensor values, float cap) override {
        cuda::soft_cap_forward(values.as<float>(), cap, values.elements(), stream_);
    }
    void soft_cap_backward(Tensor d_values, Tensor values, float cap) override {
        with_float_type(d_values.dtype, [&]<class T>() {
            cuda::soft_cap_backward(d_values.as<T>(), values.as<float>(), cap, values.elements(), stream_);
        });
    }
    void rope_forward(Tensor heads, Tensor cosines, Tensor sines) override {
        with_float_type(heads.dtype, [&]<class T>() {
            cuda::rope_forward(heads.as<T>(), cosines.as<float>(), sines.as<float>(), heads.dim(0), heads.dim(1),
                               heads.dim(2), cosines.dim(1), cosines.dim(0), stream_);
        });
    }
    void rope_backward(Tensor d_heads, Tensor cosines, Tensor sines) override {
        with_float_type(d_heads.dtype, [&]<class T>() {
            cuda::rope_backward(d_heads.as<T>(), cosines.as<float>(), sines.as<float>(), d_heads.dim(0), d_heads.dim(1),
                                d_heads.dim(2), cosines.dim(1), cosines.dim(0), stream_);
        });
    }

    void attention_forward(Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v,
                           const AttentionShape& shape) override {
        with_float_type(q.dtype, [&]<class T>() {
            cuda::attention_forward(out.as<T>(), log_sum_exp.as<float>(), q.as<T>(), k.as<T>(), v.as<T>(),
                                    sizes_of(shape), stream_);
        });
    }
    void attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor out, Tensor log_sum_exp, Tensor q,
                            Tensor k, Tensor v, const AttentionShape& shape) override {
        const AttentionSizes sizes = sizes_of(shape);
        void* scratch = workspace_.get(attention_backward_workspace(sizes, q.dtype));
        with_float_type(q.dtype, [&]<class T>() {
            cuda::attention_backward(d_q.as<T>(), d_k.as<T>(), d_v.as<T>(), d_out.as<T>(), out.as<T>(),
                                     log_sum_exp.as<float>(), q.as<T>(), k.as<T>(), v.as<T>(), sizes, scratch, stream_);
        });
    }
    void attention_decode(Tensor out, Tensor q, Tensor keys, Tensor values, const AttentionShape& shape) override {
        const AttentionSizes sizes = sizes_of(shape);
        void* scratch = workspace_.get(attention_decode_workspace(sizes));
        with_float_type(q.dtype, [&]<class T>() {
            cuda::attention_decode(out.as<T>(), q.as<T>(), keys.as<T>(), values.as<T>(), sizes, scratch, stream_);
        });
    }

    void swiglu_forward(Tensor out, Tensor gate, Tensor up) override {
        with_float_type(out.dtype, [&]<class T>() {
            cuda::swiglu_forward(out.as<T>(), gate.as<T>(), up.as<T>(), out.elements(), stream_);
        });
    }
    void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) override {
        with_float_type(out.dtype, [&]<class T>() {
            cuda::swiglu_backward(d_gate.as<T>(), d_up.as<T>(), out.as<T>(), d_out.as<T>(), gate.as<T>(), up.as<T>(),
                                  out.elements(), stream_);
        });
    }
    void geglu_forward(Tensor out, Tensor gate, Tensor up) override {
        with_float_type(out.dtype, [&]<class T>() {
            cuda::geglu_forward(out.as<T>(), gate.as<T>(), up.as<T>(), out.elements(), stream_);
        });
    }
    void geglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) override {
        with_float_type(out.dtype, [&]<class T>() {
            cuda::geglu_backward(d_gate.as<T>(), d_up.as<T>(), out.as<T>(), d_out.as<T>(), gate.as<T>(), up.as<T>(),
                                 out.elements(), stream_);
        });
    }
    void add(Tensor out, Tensor a, Tensor b) override {
        with_float_type(out.dtype,
                        [&]<class T>() { cuda::add(out.as<T>(), a.as<T>(), b.as<T>(), out.elements(), stream_); });
    }

    void kl_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor teacher, float scale) override {
        with_float_type(d_logits.dtype, [&]<class T>() {
            cuda::kl_loss(loss.as<float>(), d_logits.empty() ? nullptr : d_logits.as<T>(), logits.as<float>(),
                          teacher.as<float>(), logits.dim(0), logits.dim(1), scale, stream_);
        });
    }
    void cross_entropy_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor targets, float scale) override {
        with_float_type(d_logits.dtype, [&]<class T>() {
            cuda::cross_entropy_loss(loss.as<float>(), d_logits.empty() ? nullptr : d_logits.as<T>(),
                                     logits.as<float>(), targets.as<std::uint32_t>(), logits.dim(0), logits.dim(1),
                                     scale, stream_);
        });
    }

    void mse_loss(Tensor losses, Tensor d_out, Tensor out, Tensor target, float scale) override {
        with_float_type(out.dtype, [&]<class T>() {
            cuda::mse_loss(losses.as<float>(), d_out.empty() ? nullptr : d_out.as<T>(), out.as<T>(), target.as<T>(),
                           out.dim(0), out.elements() / out.dim(0), scale, stream_);
        });
    }
    void hessian_accumulate(Tensor hessian, Tensor in) override {
        with_float_type(in.dtype, [&]<class T>() {
            cuda::hessian_accumulate(hessian.as<float>(), in.as<T>(), in.elements() / hessian.dim(0), hessian.dim(0),
                                     1.0F, stream_);
        });
    }

protected:
    Stream stream_;
    Workspace& workspace_;
    Gemm& gemm_;
};

}  // namespace pvtune::cuda
