// Which groups a V step searches and which of their changes stay, for any representation.
#include "host/bench/additive_operands.h"

namespace pvtune {

namespace {
constexpr std::int64_t row_bytes = 2;  ///< codes of a group: 2x8, 1x16, and E8P with 2 bits
}

void add_subspace_entries(Registry& registry, const BenchSetting& setting) {
    const std::int64_t groups = group_count(setting.shape);
    const std::int64_t count = chosen_count(setting.shape);
    const auto add = [&](const char* op, std::function<BenchCall(Operands&)> make) {
        registry.push_back({op, "", "", std::move(make)});
    };
    add("sampling_keys", [=](Operands& operands) -> BenchCall {
        const Tensor scores = operands.positive({groups});
        const Tensor keys = operands.fresh(DType::f32, {groups});
        return {[=] { setting.ops().sampling_keys(keys, scores, 0.5F, 1); }, bytes_of({scores, keys})};
    });
    add("round_robin", [=](Operands& operands) -> BenchCall {
        const Tensor indices = operands.fresh(DType::u32, {count});
        return {[=] { setting.ops().round_robin(indices, groups - count / 2, groups); }, bytes_of({indices})};
    });
    add("score_histogram", [=](Operands& operands) -> BenchCall {
        const Tensor scores = operands.positive({groups});
        const Tensor histogram = operands.fresh(DType::u32, {1024});
        return {[=] { setting.ops().score_histogram(histogram, scores); }, bytes_of({scores, histogram})};
    });
    add("scatter_difference", [=](Operands& operands) -> BenchCall {
        const Tensor before = operands.positive({count});
        const Tensor after = operands.random(DType::f32, {count});
        const Tensor chosen = operands.ascending(count, groups);
        const Tensor scores = operands.fresh(DType::f32, {groups});
        return {[=] { setting.ops().scatter_difference(scores, before, after, chosen); },
                bytes_of({before, after, chosen, scores.rows(0, count)})};
    });
    add("keep_by_chance", [=](Operands& operands) -> BenchCall {
        const Tensor nearest = operands.positive({count});
        const Tensor second = operands.constant(1, {count});
        const Tensor chosen = operands.ascending(count, groups);
        const Tensor keep = operands.fresh(DType::u8, {count});
        return {[=] { setting.ops().keep_by_chance(keep, nearest, second, chosen, 1, 1); },
                bytes_of({nearest, second, chosen, keep})};
    });
    // Bytes of 0 and 1 against zeros: one row in four is the same.
    add("rows_differ", [=](Operands& operands) -> BenchCall {
        const Tensor now = operands.integers(DType::u8, {count, row_bytes}, 2);
        const Tensor before = operands.zeros(DType::u8, {count, row_bytes});
        const Tensor differ = operands.fresh(DType::u8, {count});
        return {[=] { setting.ops().rows_differ(differ, now, before); }, bytes_of({now, before, differ})};
    });
    add("note_returns", [=](Operands& operands) -> BenchCall {
        const Tensor now = operands.integers(DType::u8, {count, row_bytes}, 2);
        const Tensor before = operands.zeros(DType::u8, {count, row_bytes});
        const Tensor chosen = operands.ascending(count, groups);
        const Tensor history = operands.integers(DType::u8, {groups, row_bytes}, 2);
        const Tensor returned = operands.fresh(DType::u8, {count});
        // History of the three rows in four that differ is read and written.
        return {[=] { setting.ops().note_returns(returned, history, now, before, chosen); },
                bytes_of({now, before, chosen, returned}) + 1.5 * bytes_of({now})};
    });
}

}  // namespace pvtune
