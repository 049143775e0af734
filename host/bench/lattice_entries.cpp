// Operations on E8P codes behind Hadamard transforms: over a whole matrix, and for the groups that a V step chooses.
#include "host/bench/additive_operands.h"

namespace pvtune {

namespace {

constexpr std::int64_t lattice_group = 8;

/// The block's largest matrix with random codes of so many bits a weight.
LatticeCodes lattice_matrix(Operands& operands, const BenchShape& shape, std::int64_t bits) {
    return {operands.integers(DType::u8, {shape.intermediate, shape.width / lattice_group, bits}, 256),
            operands.constant(1, {1}), operands.constant(1, {shape.intermediate}), operands.constant(1, {shape.width})};
}

/// Adds "op_format" for one number of bits at a time.
using AddEntry = std::function<void(const char* op, std::function<BenchCall(Operands&)> make)>;

/// A matrix, what its chosen groups are held against (a target or a gradient), and their codes before.
struct Chosen {
    LatticeCodes matrix;
    Tensor values, groups, saved;
    double values_bytes = 0;  ///< of the chosen groups
};

Chosen chosen_groups(Operands& operands, const BenchShape& shape, std::int64_t bits) {
    const std::int64_t count = chosen_count(shape);
    return {lattice_matrix(operands, shape, bits), operands.random(DType::f32, {shape.intermediate, shape.width}),
            operands.ascending(count, group_count(shape)), operands.integers(DType::u8, {count, bits}, 256),
            static_cast<double>(count * lattice_group * size_of(DType::f32))};
}

/// Two shifts of 256 entries with 8 products each; half as many again for 3 bits, twice as many for 4.
double search_flops(std::int64_t count, std::int64_t bits) { return 2 * static_cast<double>(count * 2048 * bits); }

void add_chosen_entries(const AddEntry& add, const BenchSetting& setting, std::int64_t bits) {
    const BenchShape s = setting.shape;
    const std::int64_t count = chosen_count(s);
    add("assign_lattice", [=](Operands& operands) -> BenchCall {
        const LatticeCodes matrix = lattice_matrix(operands, s, bits);
        const Tensor target = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor groups = operands.ascending(count, group_count(s));
        const Tensor changed = operands.fresh(DType::u8, {count});
        const double target_bytes = static_cast<double>(count * lattice_group * size_of(DType::f32));
        return {[=] { setting.ops().assign_lattice(matrix, changed, target, groups); },
                target_bytes + bytes_of({groups, changed}), search_flops(count, bits), DType::f32};
    });
    add("lattice_different", [=](Operands& operands) -> BenchCall {
        const Chosen chosen = chosen_groups(operands, s, bits);
        const Tensor changed = operands.fresh(DType::u8, {count});
        return {[=] { setting.ops().lattice_different(chosen.matrix, changed, chosen.values, chosen.groups); },
                chosen.values_bytes + bytes_of({chosen.groups, chosen.saved, chosen.saved, changed, changed}),
                search_flops(count, bits), DType::f32, [=] { setting.ops().fill_zero(changed); }};
    });
    add("lattice_change", [=](Operands& operands) -> BenchCall {
        const Chosen chosen = chosen_groups(operands, s, bits);
        const Tensor change = operands.fresh(DType::f32, {count});
        return {[=] { setting.ops().lattice_change(change, chosen.matrix, chosen.saved, chosen.groups); },
                bytes_of({chosen.groups, chosen.saved, chosen.saved, change})};
    });
    add("lattice_product", [=](Operands& operands) -> BenchCall {
        const Chosen chosen = chosen_groups(operands, s, bits);
        const Tensor product = operands.fresh(DType::f32, {count});
        return {
            [=] { setting.ops().lattice_product(product, chosen.matrix, chosen.values, chosen.saved, chosen.groups); },
            chosen.values_bytes + bytes_of({chosen.groups, chosen.saved, chosen.saved, product})};
    });
    add("lattice_distance", [=](Operands& operands) -> BenchCall {
        const Chosen chosen = chosen_groups(operands, s, bits);
        const Tensor distance = operands.fresh(DType::f32, {count});
        return {[=] { setting.ops().lattice_distance(distance, chosen.matrix, chosen.values, chosen.groups); },
                chosen.values_bytes + bytes_of({chosen.groups, chosen.saved, distance})};
    });
}

}  // namespace

void add_lattice_entries(Registry& registry, const BenchSetting& setting) {
    const BenchShape s = setting.shape;
    if (s.width % lattice_group != 0) return;
    if (std::max(s.width, s.intermediate) > setting.backend->longest_hadamard_row()) return;
    registry.push_back({"hadamard_transform", "", "", [=](Operands& operands) -> BenchCall {
                            const Tensor values = operands.random(DType::f32, {s.intermediate, s.width});
                            return {[=] { setting.ops().hadamard_transform(values); }, bytes_of({values, values})};
                        }});
    registry.push_back({"lattice_code_gradient", "", "", [=](Operands& operands) -> BenchCall {
                            const LatticeCodes matrix = lattice_matrix(operands, s, 2);
                            const Tensor d_weight = operands.random(DType::f32, {s.intermediate, s.width});
                            return {[=] { setting.ops().lattice_code_gradient(d_weight, matrix); },
                                    bytes_of({d_weight, d_weight, matrix.left, matrix.right})};
                        }});
    for (const std::int64_t bits : {2, 3, 4}) {
        const auto add = [&](const std::string& op, std::function<BenchCall(Operands&)> make) {
            registry.push_back({op + "_" + std::to_string(bits) + "bit", "", "", std::move(make)});
        };
        add("dequantize_lattice", [=](Operands& operands) -> BenchCall {
            const LatticeCodes matrix = lattice_matrix(operands, s, bits);
            const Tensor weight = operands.fresh(setting.precision, {s.intermediate, s.width});
            return {[=] { setting.ops().dequantize_lattice(weight, matrix); }, bytes_of({matrix.codes, weight})};
        });
        add("linear_from_lattice", [=](Operands& operands) -> BenchCall {
            const LatticeCodes matrix = lattice_matrix(operands, s, bits);
            const Tensor in = operands.random(setting.precision, {1, s.width});
            const Tensor out = operands.fresh(setting.precision, {1, s.intermediate});
            return {[=] { setting.ops().linear_from_lattice(out, in, matrix, {}); },
                    bytes_of({matrix.codes, matrix.left, matrix.right, in, out}),
                    2 * static_cast<double>(s.intermediate * s.width), setting.precision};
        });
        add("lattice_gradient", [=](Operands& operands) -> BenchCall {
            const LatticeCodes matrix = lattice_matrix(operands, s, bits);
            const Tensor d_weight = operands.random(DType::f32, {s.intermediate, s.width});
            const Tensor d_scale = operands.fresh(DType::f32, {1});
            const Tensor d_left = operands.fresh(DType::f32, {s.intermediate});
            const Tensor d_right = operands.fresh(DType::f32, {s.width});
            return {[=] { setting.ops().lattice_gradient(d_scale, d_left, d_right, d_weight, matrix); },
                    bytes_of({matrix.codes, d_weight, d_left, d_right})};
        });
        add("lattice_target", [=](Operands& operands) -> BenchCall {
            const LatticeCodes matrix = lattice_matrix(operands, s, bits);
            const Tensor wanted = operands.random(DType::f32, {s.intermediate, s.width});
            const Tensor weight = operands.random(setting.precision, {s.intermediate, s.width});
            const Tensor target = operands.fresh(DType::f32, {s.intermediate, s.width});
            const Tensor scores = operands.fresh(DType::f32, {group_count(s)});
            return {[=] { setting.ops().lattice_target(target, scores, wanted, weight, matrix); },
                    bytes_of({matrix.codes, wanted, weight, target, scores})};
        });
        add_chosen_entries(add, setting, bits);
    }
}

}  // namespace pvtune
