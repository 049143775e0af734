#include "host/backend/cuda/cuda_ops.h"

#include "host/backend/cuda/code_sweeps.h"
#include "host/backend/cuda/code_views.h"
#include "host/backend/cuda/model_ops.h"

namespace pvtune::cuda {

namespace {

class CudaOps final : public ModelOps {
public:
    using ModelOps::ModelOps;

    void search_codes(Tensor codes, Tensor points, Tensor codebooks, int beam, int sweeps) override {
        const CodeSearch wanted{codes.dim(0), codebooks.dim(0), codebooks.dim(1), codebooks.dim(2), beam, sweeps};
        cuda::search_codes(codes.as<std::uint16_t>(), points.as<float>(), codebooks.as<float>(), wanted,
                           workspace_.get(search_codes_workspace(wanted)), stream_);
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
        const DenseFactor factor = factors_.get(size, stream_);
        cuda::hadamard_transform(values.as<float>(), values.elements() / size, size, factor.matrix, factor.order,
                                 stream_);
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
            cuda::lattice_gemv(out.as<T>(), in.as<T>(), optional_floats(bias), view, factors_.get(view.rows, stream_),
                               factors_.get(view.columns(), stream_), scratch, stream_);
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
    void lattice_target(Tensor target, Tensor scores, Tensor wanted, Tensor weight,
                        const LatticeCodes& lattice) override {
        with_lattice(lattice, [&](const auto&... view) {
            with_float_type(weight.dtype, [&]<class T>() {
                cuda::lattice_target(target.as<float>(), scores.as<float>(), wanted.as<float>(), weight.as<T>(),
                                     view..., stream_);
            });
        });
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
        const std::int64_t moment_group = target.empty() ? 1 : target.elements() / second_moment.elements();
        const auto run = [&]<class Moment, class Base>() {
            with_float_type(current.dtype, [&]<class Current>() {
                cuda::moment_and_score(target.as<float>(), scores.as<float>(), second_moment.as<Moment>(),
                                       d_weight.as<float>(), base.as<Base>(), current.as<Current>(), target.elements(),
                                       group, moment_group, rates, scratch, stream_);
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
    void convert_by_chance(Tensor out, Tensor in, std::uint64_t seed) override {
        cuda::convert_by_chance(out.as<bf16>(), in.as<float>(), seed, out.elements(), stream_);
    }
    void fill_zero(Tensor out) override {
        if (out.elements() == 0) return;
        check(cudaMemsetAsync(out.data, 0, static_cast<std::size_t>(out.bytes()), stream_), "a tensor set to zero");
    }

    void gptq(const ScalarCodes& scalar, Tensor weight, Tensor shares, Tensor order) override {
        const ScalarView view = view_of(scalar);
        cuda::gptq(view, weight.as<float>(), shares.as<float>(), order.as<std::uint32_t>(), gemm_,
                   workspace_.get(gptq_workspace(view.rows, view.columns)), stream_);
    }
    void ldlq(Tensor codes, Tensor target, Tensor shares) override {
        cuda::ldlq(codes.as<std::uint8_t>(), target.as<float>(), shares.as<float>(), target.dim(0), target.dim(1),
                   codes.dim(2), gemm_, workspace_.get(ldlq_workspace(target.dim(0), target.dim(1))), stream_);
    }
    void additive_sweep(const AdditiveCodes& additive, Tensor quantized, Tensor gradient, Tensor hessian,
                        Tensor factors, int beam, std::int64_t block) override {
        const auto view = view_of<std::uint16_t>(additive);
        void* scratch = workspace_.get(additive_sweep_workspace(view, beam, block));
        cuda::additive_sweep(view, quantized.as<float>(), gradient.as<float>(), hessian.as<float>(),
                             factors.as<double>(), beam, block, gemm_, scratch, stream_);
    }
    void row_products(Tensor products, Tensor a, Tensor b) override {
        cuda::row_products(products.as<double>(), a.as<float>(), b.as<float>(), a.dim(0), a.dim(1), stream_);
    }
    void hessian_products(Tensor products, Tensor a, Tensor b, Tensor hessian) override {
        const Tensor image(workspace_.get(static_cast<std::size_t>(b.bytes())), DType::f32, {b.dim(0), b.dim(1)});
        linear_backward_input(image, b, hessian, false);
        row_products(products, a, image);
    }
    void scale_rows(Tensor values, Tensor factors) override {
        cuda::scale_rows(values.as<float>(), factors.as<float>(), values.dim(0), values.dim(1), stream_);
    }

private:
    /// Calls body(view, factor of its rows, factor of its columns, workspace).
    template <class Body>
    void with_lattice(const LatticeCodes& lattice, const Body& body) {
        const LatticeView view = view_of(lattice);
        body(view, factors_.get(view.rows, stream_), factors_.get(view.columns(), stream_),
             workspace_.get(lattice_weight_workspace(view.rows, view.columns())));
    }

    DenseFactors factors_;
};

}  // namespace

std::unique_ptr<Ops> make_ops(Stream stream, Workspace& workspace, Gemm& gemm) {
    return std::make_unique<CudaOps>(stream, workspace, gemm);
}

}  // namespace pvtune::cuda
