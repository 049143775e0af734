#include "host/backend/cuda/cuda_ops.h"

#include "cuda/kernels.h"
#include "host/backend/dispatch.h"
#include "host/backend/hadamard.h"

#include <map>

namespace pvtune::cuda {

namespace {

AttentionSizes sizes_of(const AttentionShape& shape) {
    return {shape.sequences, shape.length, shape.heads, shape.kv_heads, shape.head_dim, shape.window, shape.cap};
}

template <class Code>
AdditiveView<Code> view_of(const AdditiveCodes& additive) {
    AdditiveView<Code> view;
    view.codes = additive.codes.as<Code>();
    view.codebooks = additive.codebooks.as<float>();
    view.scales = additive.scales.as<float>();
    view.rows = additive.codes.dim(0);
    view.groups = additive.codes.dim(1);
    view.books = additive.codes.dim(2);
    view.codebook_size = additive.codebooks.dim(1);
    view.group = additive.codebooks.dim(2);
    return view;
}

ScalarView view_of(const ScalarCodes& scalar) {
    return {scalar.codes.as<std::uint8_t>(),
            scalar.scales.as<float>(),
            scalar.zeros.as<float>(),
            scalar.codes.dim(0),
            scalar.codes.dim(1),
            scalar.group,
            scalar.levels};
}

/// Calls body(view) with the codes' own type.
template <class Body>
void with_view(const AdditiveCodes& additive, const Body& body) {
    with_code_type(additive.codes.dtype, [&]<class Code>() { body(view_of<Code>(additive)); });
}

LatticeView view_of(const LatticeCodes& lattice) {
    LatticeView view;
    view.codes = lattice.codes.as<std::uint8_t>();
    view.scale = lattice.scale.as<float>();
    view.left = lattice.left.as<float>();
    view.right = lattice.right.as<float>();
    view.rows = lattice.codes.dim(0);
    view.groups = lattice.codes.dim(1);
    view.bytes = lattice.codes.dim(2);
    return view;
}

/// The dense factors of Hadamard transforms on the device, made when a size is first met.
class DenseFactors {
public:
    DenseFactor get(std::int64_t size) {
        const HadamardFactor& factor = hadamard_factor(size);
        DeviceMemory& memory = made_[size];
        if (memory.data() == nullptr) {
            memory = DeviceMemory(factor.matrix.size() * sizeof(float));
            check(cudaMemcpy(memory.data(), factor.matrix.data(), memory.bytes(), cudaMemcpyHostToDevice),
                  "the factor of a Hadamard transform");
        }
        return {static_cast<const float*>(memory.data()), factor.order};
    }

private:
    std::map<std::int64_t, DeviceMemory> made_;
};

float* optional_floats(Tensor tensor) { return tensor.empty() ? nullptr : tensor.as<float>(); }

class CudaOps final : public Ops {
public:
    CudaOps(Stream stream, Workspace& workspace, Gemm& gemm) : stream_(stream), workspace_(workspace), gemm_(gemm) {}

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

    void dequantize_additive(Tensor weight, const AdditiveCodes& additive) override {
        with_view(additive, [&](auto view) {
            with_float_type(weight.dtype, [&]<class T>() { cuda::dequantize_additive(weight.as<T>(), view, stream_); });
        });
    }
    void linear_from_codes(Tensor out, Tensor in, const AdditiveCodes& additive, Tensor bias) override {
        with_view(additive, [&](auto view) {
            with_float_type(in.dtype, [&]<class T>() {
                cuda::dequantize_gemv(out.as<T>(), in.as<T>(), optional_floats(bias), view, stream_);
            });
        });
    }
    void additive_gradient(Tensor d_codebooks, Tensor d_scales, Tensor d_weight,
                           const AdditiveCodes& additive) override {
        with_view(additive, [&](auto view) {
            void* scratch = workspace_.get(additive_gradient_workspace(view));
            cuda::additive_gradient(d_codebooks.as<float>(), d_scales.as<float>(), d_weight.as<float>(), view, scratch,
                                    stream_);
        });
    }
    void assign_additive(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups,
                         int beam) override {
        const std::int64_t count = groups.elements();
        with_view(additive, [&](auto view) {
            void* scratch = workspace_.get(assign_additive_workspace(view, count, beam));
            cuda::assign_additive(view, changed.as<std::uint8_t>(), target.as<float>(), groups.as<std::uint32_t>(),
                                  count, beam, scratch, stream_);
        });
    }
    void dequantize_scalar(Tensor weight, const ScalarCodes& scalar) override {
        with_float_type(weight.dtype,
                        [&]<class T>() { cuda::dequantize_scalar(weight.as<T>(), view_of(scalar), stream_); });
    }
    void linear_from_scalar(Tensor out, Tensor in, const ScalarCodes& scalar, Tensor bias) override {
        with_float_type(in.dtype, [&]<class T>() {
            cuda::scalar_gemv(out.as<T>(), in.as<T>(), optional_floats(bias), view_of(scalar), stream_);
        });
    }
    void scalar_gradient(Tensor d_scales, Tensor d_zeros, Tensor d_weight, const ScalarCodes& scalar) override {
        cuda::scalar_gradient(d_scales.as<float>(), d_zeros.as<float>(), d_weight.as<float>(), view_of(scalar),
                              stream_);
    }
    void assign_scalar(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights) override {
        cuda::assign_scalar(view_of(scalar), changed.as<std::uint8_t>(), target.as<float>(),
                            weights.as<std::uint32_t>(), weights.elements(), stream_);
    }
    void scalar_change(Tensor change, const ScalarCodes& scalar, Tensor saved, Tensor weights) override {
        cuda::scalar_change(change.as<float>(), view_of(scalar), saved.as<std::uint8_t>(), weights.as<std::uint32_t>(),
                            weights.elements(), stream_);
    }
    void scalar_product(Tensor product, const ScalarCodes& scalar, Tensor matrix, Tensor saved,
                        Tensor weights) override {
        cuda::scalar_product(product.as<float>(), view_of(scalar), matrix.as<float>(), saved.as<std::uint8_t>(),
                             weights.as<std::uint32_t>(), weights.elements(), stream_);
    }
    void scalar_distance(Tensor distance, const ScalarCodes& scalar, Tensor target, Tensor weights) override {
        cuda::scalar_distance(distance.as<float>(), view_of(scalar), target.as<float>(), weights.as<std::uint32_t>(),
                              weights.elements(), stream_);
    }
    void scalar_different(const ScalarCodes& scalar, Tensor changed, Tensor target, Tensor weights) override {
        cuda::scalar_different(view_of(scalar), changed.as<std::uint8_t>(), target.as<float>(),
                               weights.as<std::uint32_t>(), weights.elements(), stream_);
    }
    void scalar_eager_score(Tensor scores, Tensor changes, const ScalarCodes& scalar, Tensor gradient,
                            Tensor second_moment, float correction, float epsilon) override {
        with_float_type(second_moment.dtype, [&]<class Moment>() {
            cuda::scalar_eager_score(scores.as<float>(), changes.as<std::uint32_t>(), view_of(scalar),
                                     gradient.as<float>(), second_moment.as<Moment>(), correction, epsilon, stream_);
        });
    }
    void gather_codes(Tensor saved, Tensor codes, Tensor groups) override {
        with_code_type(codes.dtype, [&]<class Code>() {
            cuda::gather_codes<Code>(saved.as<Code>(), codes.as<Code>(), groups.as<std::uint32_t>(), groups.elements(),
                                     saved.dim(1), stream_);
        });
    }
    void code_change(Tensor change, const AdditiveCodes& additive, Tensor saved, Tensor groups) override {
        with_code_type(additive.codes.dtype, [&]<class Code>() {
            cuda::code_change(change.as<float>(), view_of<Code>(additive), saved.as<Code>(), groups.as<std::uint32_t>(),
                              groups.elements(), stream_);
        });
    }
    void code_product(Tensor product, const AdditiveCodes& additive, Tensor matrix, Tensor saved,
                      Tensor groups) override {
        with_code_type(additive.codes.dtype, [&]<class Code>() {
            cuda::code_product(product.as<float>(), view_of<Code>(additive), matrix.as<float>(), saved.as<Code>(),
                               groups.as<std::uint32_t>(), groups.elements(), stream_);
        });
    }
    void code_distance(Tensor distance, const AdditiveCodes& additive, Tensor target, Tensor groups) override {
        with_view(additive, [&](auto view) {
            cuda::code_distance(distance.as<float>(), view, target.as<float>(), groups.as<std::uint32_t>(),
                                groups.elements(), stream_);
        });
    }
    void assign_different(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups) override {
        with_view(additive, [&](auto view) {
            cuda::assign_different(view, changed.as<std::uint8_t>(), target.as<float>(), groups.as<std::uint32_t>(),
                                   groups.elements(), stream_);
        });
    }
    void eager_score(Tensor scores, Tensor changes, const AdditiveCodes& additive, Tensor gradient,
                     Tensor second_moment, float correction, float epsilon) override {
        with_view(additive, [&](auto view) {
            with_float_type(second_moment.dtype, [&]<class Moment>() {
                cuda::eager_score(scores.as<float>(), changes.as<std::uint32_t>(), view, gradient.as<float>(),
                                  second_moment.as<Moment>(), correction, epsilon, stream_);
            });
        });
    }
    void apply_changes(Tensor codes, Tensor changed, Tensor changes, Tensor scores, Tensor groups,
                       std::int64_t codebook_size) override {
        with_code_type(codes.dtype, [&]<class Code>() {
            cuda::apply_changes(codes.as<Code>(), changed.as<std::uint8_t>(), changes.as<std::uint32_t>(),
                                scores.as<float>(), groups.as<std::uint32_t>(), groups.elements(),
                                codes.elements() / scores.elements(), codebook_size, stream_);
        });
    }
    void bound_changes(Tensor keep, Tensor change, Tensor scores, Tensor groups, Tensor weight_squares,
                       double trust_ratio, std::int64_t most) override {
        void* scratch = workspace_.get(bound_changes_workspace(groups.elements()));
        cuda::bound_changes(keep.as<std::uint8_t>(), optional_floats(change), scores.as<float>(),
                            groups.as<std::uint32_t>(), groups.elements(),
                            change.empty() ? nullptr : weight_squares.as<double>(), trust_ratio, most, scratch,
                            stream_);
    }
    void sampling_keys(Tensor keys, Tensor scores, float inverse_temperature, std::uint64_t seed) override {
        cuda::sampling_keys(keys.as<float>(), scores.as<float>(), scores.elements(), inverse_temperature, seed,
                            stream_);
    }
    void round_robin(Tensor indices, std::int64_t first, std::int64_t groups) override {
        cuda::round_robin(indices.as<std::uint32_t>(), indices.elements(), first, groups, stream_);
    }
    void score_histogram(Tensor histogram, Tensor scores) override {
        cuda::score_histogram(histogram.as<std::uint32_t>(), scores.as<float>(), scores.elements(), stream_);
    }
    void scatter_difference(Tensor scores, Tensor before, Tensor after, Tensor groups) override {
        cuda::scatter_difference(scores.as<float>(), before.as<float>(), after.as<float>(), groups.as<std::uint32_t>(),
                                 groups.elements(), stream_);
    }
    void keep_by_chance(Tensor keep, Tensor nearest, Tensor second, Tensor groups, float temperature,
                        std::uint64_t seed) override {
        cuda::keep_by_chance(keep.as<std::uint8_t>(), nearest.as<float>(), second.as<float>(),
                             groups.as<std::uint32_t>(), groups.elements(), temperature, seed, stream_);
    }
    void rows_differ(Tensor differ, Tensor a, Tensor b) override {
        const std::int64_t rows = differ.elements();
        cuda::rows_differ(differ.as<std::uint8_t>(), a.data, b.data, rows, rows > 0 ? a.bytes() / rows : 0, stream_);
    }
    void note_returns(Tensor returned, Tensor history, Tensor now, Tensor before, Tensor groups) override {
        const std::int64_t rows = groups.elements();
        cuda::note_returns(returned.as<std::uint8_t>(), history.data, now.data, before.data, groups.as<std::uint32_t>(),
                           rows, rows > 0 ? now.bytes() / rows : 0, stream_);
    }
    void restore_codes(Tensor codes, Tensor saved, Tensor groups, Tensor keep) override {
        with_code_type(codes.dtype, [&]<class Code>() {
            cuda::restore_codes<Code>(codes.as<Code>(), saved.as<Code>(), groups.as<std::uint32_t>(),
                                      keep.as<std::uint8_t>(), groups.elements(), saved.dim(1), stream_);
        });
    }

    void hadamard_transform(Tensor values) override {
        const std::int64_t size = values.dim(values.rank - 1);
        const DenseFactor factor = factors_.get(size);
        cuda::hadamard_transform(values.as<float>(), values.elements() / size, size, factor.matrix, factor.order,
                                 stream_);
    }
    void decode_lattice(Tensor values, const LatticeCodes& lattice) override {
        with_float_type(values.dtype,
                        [&]<class T>() { cuda::decode_lattice(values.as<T>(), view_of(lattice), stream_); });
    }
    void dequantize_lattice(Tensor weight, const LatticeCodes& lattice) override {
        with_lattice(lattice, [&](const auto&... view) {
            with_float_type(weight.dtype,
                            [&]<class T>() { cuda::dequantize_lattice(weight.as<T>(), view..., stream_); });
        });
    }
    void linear_from_lattice(Tensor out, Tensor in, const LatticeCodes& lattice, Tensor bias) override {
        const LatticeView view = view_of(lattice);
        void* scratch = workspace_.get(lattice_gemv_workspace(view.rows, view.columns()));
        with_float_type(in.dtype, [&]<class T>() {
            cuda::lattice_gemv(out.as<T>(), in.as<T>(), optional_floats(bias), view, factors_.get(view.rows),
                               factors_.get(view.columns()), scratch, stream_);
        });
    }
    void lattice_gradient(Tensor d_scale, Tensor d_left, Tensor d_right, Tensor d_weight,
                          const LatticeCodes& lattice) override {
        with_lattice(lattice, [&](const auto&... view) {
            cuda::lattice_gradient(d_scale.as<float>(), d_left.as<float>(), d_right.as<float>(), d_weight.as<float>(),
                                   view..., stream_);
        });
    }
    void lattice_code_gradient(Tensor d_weight, const LatticeCodes& lattice) override {
        with_lattice(lattice,
                     [&](const auto&... view) { cuda::lattice_code_gradient(d_weight.as<float>(), view..., stream_); });
    }
    void assign_lattice(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups) override {
        cuda::assign_lattice(view_of(lattice), changed.as<std::uint8_t>(), target.as<float>(),
                             groups.as<std::uint32_t>(), groups.elements(), stream_);
    }
    void lattice_change(Tensor change, const LatticeCodes& lattice, Tensor saved, Tensor groups) override {
        cuda::lattice_change(change.as<float>(), view_of(lattice), saved.as<std::uint8_t>(), groups.as<std::uint32_t>(),
                             groups.elements(), stream_);
    }
    void lattice_product(Tensor product, const LatticeCodes& lattice, Tensor matrix, Tensor saved,
                         Tensor groups) override {
        cuda::lattice_product(product.as<float>(), view_of(lattice), matrix.as<float>(), saved.as<std::uint8_t>(),
                              groups.as<std::uint32_t>(), groups.elements(), stream_);
    }
    void lattice_distance(Tensor distance, const LatticeCodes& lattice, Tensor target, Tensor groups) override {
        cuda::lattice_distance(distance.as<float>(), view_of(lattice), target.as<float>(), groups.as<std::uint32_t>(),
                               groups.elements(), stream_);
    }
    void lattice_different(const LatticeCodes& lattice, Tensor changed, Tensor target, Tensor groups) override {
        cuda::lattice_different(view_of(lattice), changed.as<std::uint8_t>(), target.as<float>(),
                                groups.as<std::uint32_t>(), groups.elements(), stream_);
    }

    void adam(Tensor value, Tensor first_moment, Tensor second_moment, Tensor gradient, Tensor copy, Tensor gate,
              const AdamSettings& settings) override {
        const AdamRates rates{settings.rate,    settings.beta1, settings.beta2,
                              settings.epsilon, settings.lamb,  settings.step};
        void* scratch = workspace_.get(adam_workspace(value.elements()));
        cuda::adam(value.as<float>(), first_moment.as<float>(), second_moment.as<float>(), gradient.as<float>(),
                   copy.empty() ? nullptr : copy.as<bf16>(), gate.empty() ? nullptr : gate.as<double>(),
                   value.elements(), rates, scratch, stream_);
    }
    void moment_and_score(Tensor target, Tensor scores, Tensor second_moment, Tensor d_weight, Tensor base,
                          Tensor current, std::int64_t group, const VStepSettings& settings) override {
        const VStepRates rates{settings.rate, settings.beta2, settings.epsilon, settings.lamb, settings.step};
        void* scratch = workspace_.get(moment_and_score_workspace(target.elements()));
        const auto run = [&]<class Moment, class Base>() {
            with_float_type(current.dtype, [&]<class Current>() {
                cuda::moment_and_score(target.as<float>(), scores.as<float>(), second_moment.as<Moment>(),
                                       d_weight.as<float>(), base.as<Base>(), current.as<Current>(), target.elements(),
                                       group, rates, scratch, stream_);
            });
        };
        with_float_type(second_moment.dtype, [&]<class Moment>() {
            with_float_type(base.dtype, [&]<class Base>() { run.template operator()<Moment, Base>(); });
        });
    }
    void select_largest(Tensor indices, Tensor scores) override {
        void* scratch = workspace_.get(select_largest_workspace(indices.elements(), scores.elements()));
        cuda::select_largest(indices.as<std::uint32_t>(), scores.as<float>(), indices.elements(), scores.elements(),
                             scratch, stream_);
    }
    void sum_of_squares(Tensor sum, Tensor values) override {
        void* scratch = workspace_.get(sum_of_squares_workspace(values.elements()));
        with_float_type(values.dtype, [&]<class T>() {
            cuda::sum_of_squares(sum.as<double>(), values.as<T>(), values.elements(), scratch, stream_);
        });
    }
    void sum(Tensor total, Tensor values) override {
        void* scratch = workspace_.get(sum_of_squares_workspace(values.elements()));
        cuda::sum(total.as<double>(), values.as<float>(), values.elements(), scratch, stream_);
    }
    void count_flags(Tensor total, Tensor flags) override {
        cuda::count_flags(total.as<std::uint32_t>(), flags.as<std::uint8_t>(), flags.elements(), stream_);
    }

    void add_scaled(Tensor out, Tensor in, float scale) override {
        cuda::add_scaled(out.as<float>(), in.as<float>(), scale, out.elements(), stream_);
    }
    void convert(Tensor out, Tensor in) override {
        with_float_type(out.dtype, [&]<class To>() {
            with_float_type(in.dtype,
                            [&]<class From>() { cuda::convert(out.as<To>(), in.as<From>(), out.elements(), stream_); });
        });
    }
    void fill_zero(Tensor out) override {
        if (out.elements() == 0) return;
        check(cudaMemsetAsync(out.data, 0, static_cast<std::size_t>(out.bytes()), stream_), "a tensor set to zero");
    }

private:
    /// Calls body(view, factor of its rows, factor of its columns, workspace).
    template <class Body>
    void with_lattice(const LatticeCodes& lattice, const Body& body) {
        const LatticeView view = view_of(lattice);
        body(view, factors_.get(view.rows), factors_.get(view.columns()),
             workspace_.get(lattice_weight_workspace(view.rows, view.columns())));
    }

    Stream stream_;
    Workspace& workspace_;
    Gemm& gemm_;
    DenseFactors factors_;
};

}  // namespace

std::unique_ptr<Ops> make_ops(Stream stream, Workspace& workspace, Gemm& gemm) {
    return std::make_unique<CudaOps>(stream, workspace, gemm);
}

}  // namespace pvtune::cuda
