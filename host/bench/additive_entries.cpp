// Operations on additive codebooks: over a whole matrix, and for the groups that a V step chooses.
#include "host/bench/additive_operands.h"

namespace pvtune {

namespace {

/// Adds "op_format" for one format at a time.
using AddEntry = std::function<void(const char* op, std::function<BenchCall(Operands&)> make)>;

/// What the codes of the chosen groups become, and what they were.
struct Chosen {
    Tensor groups, saved;
};

Chosen chosen_groups(Operands& operands, const BenchShape& shape, const AdditiveFormat& format) {
    const std::int64_t count = chosen_count(shape);
    return {operands.ascending(count, group_count(shape)),
            operands.integers(format.code_dtype(), {count, format.books}, format.codebook_size())};
}

void add_matrix_entries(const AddEntry& add, const BenchSetting& setting, const AdditiveFormat& format) {
    const BenchShape s = setting.shape;
    add("search_codes", [=](Operands& operands) -> BenchCall {
        // Of 2^16 codewords a sample of the groups, as initialisation takes.
        constexpr std::int64_t sample = std::int64_t{1} << 18;
        const std::int64_t count = format.code_bits > 8 ? std::min(group_count(s), sample) : group_count(s);
        const Tensor points = operands.random(DType::f32, {count, additive_group});
        const Tensor codebooks = operands.random(DType::f32, {format.books, format.codebook_size(), additive_group});
        const Tensor codes = operands.fresh(DType::u16, {count, format.books});
        // One product of every point with every codeword: beams come on top.
        return {[=] { setting.ops().search_codes(codes, points, codebooks, format.beam, 1); },
                bytes_of({points, codebooks, codes}), 2 * static_cast<double>(count * codebooks.elements()), DType::f32,
                [=] { setting.ops().fill_zero(codes); }};
    });
    add("dequantize_additive", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Tensor weight = operands.fresh(setting.precision, {s.intermediate, s.width});
        return {[=] { setting.ops().dequantize_additive(weight, matrix); },
                bytes_of({matrix.codes, matrix.codebooks, matrix.scales, weight})};
    });
    add("linear_from_codes", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Tensor in = operands.random(setting.precision, {1, s.width});
        const Tensor out = operands.fresh(setting.precision, {1, s.intermediate});
        return {[=] { setting.ops().linear_from_codes(out, in, matrix, {}); },
                bytes_of({matrix.codes, matrix.codebooks, matrix.scales, in, out}),
                2 * static_cast<double>(s.intermediate * s.width), setting.precision};
    });
    add("additive_gradient", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Tensor d_weight = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor d_codebooks = operands.fresh(DType::f32, {format.books, format.codebook_size(), additive_group});
        const Tensor d_scales = operands.fresh(DType::f32, {s.intermediate});
        return {[=] { setting.ops().additive_gradient(d_codebooks, d_scales, d_weight, matrix); },
                bytes_of({matrix.codes, matrix.codebooks, matrix.scales, d_weight, d_codebooks, d_scales})};
    });
    if (format.code_bits > 8) return;  // every codeword against every group: not with a codebook of 2^16
    add("eager_score", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Tensor gradient = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor moment = operands.zeros(setting.precision, {s.intermediate, s.width});
        const Tensor scores = operands.fresh(DType::f32, {matrix.codes.dim(0) * matrix.codes.dim(1)});
        const Tensor changes = operands.fresh(DType::u32, {scores.elements()});
        // A difference, a product, and a square with its weight for every codeword and weight.
        const double flops = 6.0 * static_cast<double>(s.intermediate * s.width) *
                             static_cast<double>(matrix.codebooks.dim(0) * matrix.codebooks.dim(1));
        return {[=] { setting.ops().eager_score(scores, changes, matrix, gradient, moment, 1, 1e-8F); },
                bytes_of({matrix.codes, gradient, moment, scores, changes}), flops, DType::f32};
    });
}

void add_chosen_entries(const AddEntry& add, const BenchSetting& setting, const AdditiveFormat& format) {
    const BenchShape s = setting.shape;
    const std::int64_t count = chosen_count(s);
    add("assign_additive", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Chosen chosen = chosen_groups(operands, s, format);
        const Tensor target = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor changed = operands.fresh(DType::u8, {count});
        const Tensor none_kept = operands.zeros(DType::u8, {count});
        // One product of every chosen group with every codeword: sweeps and beams come on top.
        const double flops = 2 * static_cast<double>(count * matrix.codebooks.elements());
        const double target_bytes = static_cast<double>(count * additive_group * size_of(DType::f32));
        return {[=] { setting.ops().assign_additive(matrix, changed, target, chosen.groups, format.beam); },
                target_bytes + bytes_of({chosen.groups, chosen.saved, chosen.saved, changed, matrix.codebooks}), flops,
                DType::f32, [=] { setting.ops().restore_codes(matrix.codes, chosen.saved, chosen.groups, none_kept); }};
    });
    add("gather_codes", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Chosen chosen = chosen_groups(operands, s, format);
        return {[=] { setting.ops().gather_codes(chosen.saved, matrix.codes, chosen.groups); },
                bytes_of({chosen.groups, chosen.saved, chosen.saved})};
    });
    add("code_change", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Chosen chosen = chosen_groups(operands, s, format);
        const Tensor change = operands.fresh(DType::f32, {count});
        return {[=] { setting.ops().code_change(change, matrix, chosen.saved, chosen.groups); },
                bytes_of({chosen.groups, chosen.saved, chosen.saved, matrix.codebooks, change})};
    });
    add("code_product", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Chosen chosen = chosen_groups(operands, s, format);
        const Tensor gradient = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor product = operands.fresh(DType::f32, {count});
        return {[=] { setting.ops().code_product(product, matrix, gradient, chosen.saved, chosen.groups); },
                bytes_of({chosen.groups, chosen.saved, chosen.saved, matrix.codebooks, product}) +
                    static_cast<double>(count * additive_group * size_of(DType::f32))};
    });
    add("code_distance", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Chosen chosen = chosen_groups(operands, s, format);
        const Tensor target = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor distance = operands.fresh(DType::f32, {count});
        return {[=] { setting.ops().code_distance(distance, matrix, target, chosen.groups); },
                bytes_of({chosen.groups, chosen.saved, matrix.codebooks, distance}) +
                    static_cast<double>(count * additive_group * size_of(DType::f32))};
    });
    add("restore_codes", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Chosen chosen = chosen_groups(operands, s, format);
        const Tensor keep = operands.integers(DType::u8, {count}, 2);
        return {[=] { setting.ops().restore_codes(matrix.codes, chosen.saved, chosen.groups, keep); },
                bytes_of({chosen.groups, keep, chosen.saved, chosen.saved})};
    });
    add("assign_different", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Chosen chosen = chosen_groups(operands, s, format);
        const Tensor target = operands.random(DType::f32, {s.intermediate, s.width});
        const Tensor changed = operands.fresh(DType::u8, {count});
        const double flops = 2 * static_cast<double>(count * matrix.codebooks.elements());
        const double target_bytes = static_cast<double>(count * additive_group * size_of(DType::f32));
        return {
            [=] { setting.ops().assign_different(matrix, changed, target, chosen.groups); },
            target_bytes + bytes_of({chosen.groups, chosen.saved, chosen.saved, changed, changed, matrix.codebooks}),
            flops, DType::f32, [=] { setting.ops().fill_zero(changed); }};
    });
    add("apply_changes", [=](Operands& operands) -> BenchCall {
        const AdditiveCodes matrix = additive_matrix(operands, s, format);
        const Tensor groups = operands.ascending(count, group_count(s));
        const Tensor changes = operands.integers(DType::u32, {group_count(s)}, format.books * format.codebook_size());
        const Tensor scores = operands.random(DType::f32, {group_count(s)});
        const Tensor changed = operands.fresh(DType::u8, {count});
        // Every second score is positive: that group's change is read, and a code written.
        const double change_bytes = static_cast<double>(size_of(DType::u32) + size_of(format.code_dtype())) / 2;
        const double chosen_bytes = static_cast<double>(count) * (size_of(DType::f32) + change_bytes);
        return {[=] {
                    setting.ops().apply_changes(matrix.codes, changed, changes, scores, groups, format.codebook_size());
                },
                chosen_bytes + bytes_of({groups, changed})};
    });
}

}  // namespace

AdditiveCodes additive_matrix(Operands& operands, const BenchShape& shape, const AdditiveFormat& format) {
    return {operands.integers(format.code_dtype(), {shape.intermediate, shape.width / additive_group, format.books},
                              format.codebook_size()),
            operands.random(DType::f32, {format.books, format.codebook_size(), additive_group}),
            operands.random(DType::f32, {shape.intermediate})};
}

void add_additive_entries(Registry& registry, const BenchSetting& setting) {
    using AddEntries = void (*)(const AddEntry&, const BenchSetting&, const AdditiveFormat&);
    for (const AddEntries add_entries : {add_matrix_entries, add_chosen_entries}) {
        for (const AdditiveFormat& format : additive_formats) {
            const auto add = [&](const std::string& op, std::function<BenchCall(Operands&)> make) {
                registry.push_back({op + "_" + format.name, "", "", std::move(make)});
            };
            add_entries(add, setting, format);
        }
    }
}

}  // namespace pvtune
