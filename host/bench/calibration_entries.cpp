// Codes under a Hessian, for all rows of the block's largest matrix, and the products around them.
#include "host/bench/additive_operands.h"

namespace pvtune {

namespace {

constexpr std::int64_t block_columns = 128;
constexpr int sweep_beam = 2;  ///< those of host/quant/calibrated_additive.h

/// Of a sweep that feeds errors forward: half of a square for every row.
double feedback_flops(const BenchShape& s) {
    return static_cast<double>(s.intermediate) * static_cast<double>(s.width) * static_cast<double>(s.width);
}

/// L = I for every group, and its inverse.
std::vector<double> identities(std::int64_t groups) {
    std::vector<double> factors(static_cast<std::size_t>(groups * 2 * additive_group * additive_group));
    for (std::size_t i = 0; i < factors.size(); ++i) {
        factors[i] = i % (additive_group * additive_group) % (additive_group + 1) == 0 ? 1 : 0;
    }
    return factors;
}

void add_additive_sweep(Registry& registry, const BenchSetting& setting, const AdditiveFormat& format) {
    const BenchShape s = setting.shape;
    registry.push_back(
        {std::string("additive_sweep_") + format.name, "", "", [=](Operands& operands) -> BenchCall {
             const std::int64_t size = format.codebook_size();
             const AdditiveCodes matrix{
                 operands.integers(DType::u16, {s.intermediate, s.width / additive_group, format.books}, size),
                 operands.random(DType::f32, {format.books, size, additive_group}),
                 operands.constant(1, {s.intermediate})};
             const Tensor start = operands.random(DType::f32, {s.intermediate, s.width});
             const Tensor quantized = operands.fresh(DType::f32, {s.intermediate, s.width});
             const Tensor gradient = operands.fresh(DType::f32, {s.intermediate, s.width});
             const Tensor hessian = operands.random(DType::f32, {s.width, s.width});
             const std::int64_t groups = s.width / additive_group;
             const Tensor factors = operands.fresh(DType::f64, {groups, 2, additive_group, additive_group});
             const double products = static_cast<double>(group_count(s)) * static_cast<double>(format.books * size);
             return {[=] {
                         setting.ops().additive_sweep(matrix, quantized, gradient, hessian, factors, sweep_beam,
                                                      block_columns);
                     },
                     bytes_of({matrix.codes, matrix.codes, quantized, quantized, gradient, gradient, hessian}),
                     2 * feedback_flops(s) + 2 * additive_group * products, DType::f32,
                     [=] {
                         setting.ops().convert(quantized, start);
                         setting.ops().convert(gradient, start);
                         setting.backend->upload(factors, identities(groups).data());
                     }};
         }});
}

}  // namespace

void add_calibration_entries(Registry& registry, const BenchSetting& setting) {
    const BenchShape s = setting.shape;
    const auto add = [&](const std::string& op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };
    add("hessian_accumulate", [=](Operands& operands) -> BenchCall {
        const Tensor in = operands.random(setting.precision, {s.tokens(), s.width});
        const Tensor hessian = operands.zeros(DType::f32, {s.width, s.width});
        // The lower triangle is read and computed, all is written.
        return {[=] { setting.ops().hessian_accumulate(hessian, in); },
                bytes_of({in, hessian}) + bytes_of({hessian}) / 2,
                static_cast<double>(in.elements()) * static_cast<double>(s.width), setting.precision};
    });
    add("gptq", [=](Operands& operands) -> BenchCall {
        const ScalarCodes matrix = scalar_matrix(operands, s);
        const Tensor weight = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor shares = operands.random(DType::f32, {s.width, s.width});
        const Tensor order = operands.scattered(s.width, s.width);
        return {[=] { setting.ops().gptq(matrix, weight, shares, order); },
                bytes_of({weight, matrix.codes, matrix.scales, matrix.zeros}) + bytes_of({shares}) / 2,
                feedback_flops(s), DType::f32};
    });
    if (s.width % additive_group == 0) {
        for (const std::int64_t bits : {2, 3, 4}) {
            add("ldlq_" + std::to_string(bits) + "bit", [=](Operands& operands) -> BenchCall {
                const Tensor codes = operands.fresh(DType::u8, {s.intermediate, s.width / additive_group, bits});
                const Tensor target = operands.random(DType::f32, {s.intermediate, s.width});
                const Tensor shares = operands.random(DType::f32, {s.width, s.width});
                // As assign_lattice counts a search.
                const double search = 2 * static_cast<double>(group_count(s) * 2048 * bits);
                return {[=] { setting.ops().ldlq(codes, target, shares); },
                        bytes_of({codes, target}) + bytes_of({shares}) / 2, feedback_flops(s) + search, DType::f32};
            });
        }
        for (const AdditiveFormat& format : additive_formats) {
            // On a CPU a codebook of 2^16 for all groups takes minutes.
            if (setting.on_cpu && format.code_bits > 8) continue;
            add_additive_sweep(registry, setting, format);
        }
    }
    add("row_products", [=](Operands& operands) -> BenchCall {
        const Tensor a = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor b = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor products = operands.fresh(DType::f64, {s.intermediate});
        return {[=] { setting.ops().row_products(products, a, b); }, bytes_of({a, b, products})};
    });
    add("hessian_products", [=](Operands& operands) -> BenchCall {
        const Tensor a = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor b = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor hessian = operands.random(DType::f32, {s.width, s.width});
        const Tensor products = operands.fresh(DType::f64, {s.intermediate});
        return {[=] { setting.ops().hessian_products(products, a, b, hessian); }, bytes_of({a, b, hessian, products}),
                2 * feedback_flops(s), DType::f32};
    });
    add("scale_rows", [=](Operands& operands) -> BenchCall {
        const Tensor values = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor factors = operands.constant(1, {s.intermediate});
        return {[=] { setting.ops().scale_rows(values, factors); }, bytes_of({values, values, factors})};
    });
}

}  // namespace pvtune
