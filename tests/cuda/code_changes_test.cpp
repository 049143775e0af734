#include "tests/cuda/additive_matrix.h"

#include <cmath>

namespace pvtune::cuda {
namespace {

const AdditiveShape shapes[] = {
    {5, 7, 8, 2, 256, DType::u8},   {3, 5, 4, 1, 256, DType::u8},      {33, 3, 16, 3, 20, DType::u8},
    {17, 9, 8, 2, 300, DType::u16}, {21, 57, 8, 1, 65536, DType::u16}, {4, 9, 8, 5, 256, DType::u8},
};

/// Every third group, from the end.
OwnedTensor some_groups(std::int64_t groups) {
    OwnedTensor chosen(DType::u32, {(groups + 2) / 3});
    for (std::int64_t i = 0; i < chosen->elements(); ++i) chosen.set(i, static_cast<double>(groups - 1 - 3 * i));
    return chosen;
}

TEST(CudaCodeChanges, SaveMeasureAndRestoreAsTheCpuDoes) {
    for (const AdditiveShape& shape : shapes) {
        SCOPED_TRACE(shape);
        const AdditiveMatrix before(shape, 1);
        const AdditiveMatrix after(shape, 2);  // other codes
        AdditiveMatrix moved = before;
        moved.codes = after.codes;
        const OwnedTensor chosen = some_groups(before.group_count());
        const std::int64_t count = chosen->elements();
        OwnedTensor keep(DType::u8, {count});
        for (std::int64_t i = 0; i < count; ++i) keep->as<std::uint8_t>()[i] = i % 3 == 0 ? 0 : 1;
        OwnedTensor saved(shape.codes, {count, shape.books});
        OwnedTensor change(DType::f32, {count});
        cpu::gather_codes(saved, before.codes, chosen);
        cpu::code_change(change, moved.additive(), saved, chosen);
        const OwnedTensor dense = random_tensor(DType::f32, {shape.rows, before.columns()}, 7);
        OwnedTensor product(DType::f32, {count});
        OwnedTensor distance(DType::f32, {count});
        cpu::code_product(product, moved.additive(), dense, saved, chosen);
        cpu::code_distance(distance, moved.additive(), dense, chosen);
        AdditiveMatrix restored = moved;
        cpu::restore_codes(restored.codes, saved, chosen, keep);

        const DeviceTensor device_chosen(chosen);
        const DeviceTensor device_keep(keep);
        const DeviceTensor device_dense(dense);
        for_each_schedule([&] {
            const DeviceMatrix old(before);
            const DeviceMatrix now(moved);
            const DeviceTensor device_saved(shape.codes, {count, shape.books});
            const DeviceTensor device_change(DType::f32, {count});
            const DeviceTensor device_product(DType::f32, {count});
            const DeviceTensor device_distance(DType::f32, {count});
            const auto* groups = device_chosen.as<std::uint32_t>();
            old.with_view([&]<class Code>(const AdditiveView<Code>& view) {
                gather_codes(device_saved.as<Code>(), view.codes, groups, count, shape.books, nullptr);
            });
            now.with_view([&]<class Code>(const AdditiveView<Code>& view) {
                const Code* from = device_saved.as<Code>();
                code_change(device_change.as<float>(), view, from, groups, count, nullptr);
                code_product(device_product.as<float>(), view, device_dense.as<float>(), from, groups, count, nullptr);
                code_distance(device_distance.as<float>(), view, device_dense.as<float>(), groups, count, nullptr);
                restore_codes(view.codes, from, groups, device_keep.as<std::uint8_t>(), count, shape.books, nullptr);
            });
            EXPECT_TRUE(same_bits(device_saved.download(), saved));
            EXPECT_LT(relative_error(device_change.download(), values_of(change)), 1e-6);
            EXPECT_LT(relative_error(device_product.download(), values_of(product)), 1e-6);
            EXPECT_LT(relative_error(device_distance.download(), values_of(distance)), 1e-6);
            EXPECT_TRUE(same_bits(now.codes.download(), restored.codes));
        });
    }
}

/// A third of `groups` as chosen ones, with scores that tie and some changes that are none.
struct Changes {
    std::int64_t count;
    OwnedTensor scores, chosen, changed;
    OwnedTensor change;  ///< whole numbers: their sums do not depend on the order, and some reach a budget exactly

    explicit Changes(std::int64_t count_)
        : count(count_),
          scores(DType::f32, {3 * count}),
          chosen(some_groups(3 * count)),
          changed(DType::u8, {count}),
          change(DType::f32, {count}) {
        std::mt19937 engine(3);
        scores.fill([&] { return static_cast<double>(engine() % 50); });
        changed.fill([&] { return engine() % 3 == 0 ? 0.0 : 1.0; });
        change.fill([&] { return static_cast<double>(engine() % 4); });
    }

    /// The device keeps what the CPU does within trust_ratio^2 * squares (of the changes, unless `of` is empty) and
    /// among the first `most`.
    void expect_bounded(Tensor of, double squares, double trust_ratio, std::int64_t most) const {
        SCOPED_TRACE(std::to_string(count) + " changes, |W|^2 " + std::to_string(squares) + ", at most " +
                     std::to_string(most));
        OwnedTensor weight_squares(DType::f64, {1});
        weight_squares->as<double>()[0] = squares;
        OwnedTensor expected = changed;
        cpu::bound_changes(expected, of, scores, chosen, weight_squares, trust_ratio, most);
        const DeviceTensor device_squares(weight_squares);
        const DeviceTensor device_change(change);
        const DeviceTensor device_scores(scores);
        const DeviceTensor device_chosen(chosen);
        for_each_schedule([&] {
            const DeviceTensor keep(changed);
            const DeviceWorkspace workspace(bound_changes_workspace(count));
            bound_changes(keep.as<std::uint8_t>(), of.empty() ? nullptr : device_change.as<float>(),
                          device_scores.as<float>(), device_chosen.as<std::uint32_t>(), count,
                          device_squares.as<double>(), trust_ratio, most, workspace.data(), nullptr);
            EXPECT_TRUE(same_bits(keep.download(), expected));
        });
    }
};

TEST(CudaBoundChanges, KeepsTheChangesOfTheLargestScores) {
    for (const std::int64_t count : {1, 40, 9001}) {
        const Changes changes(count);
        for (const double share : {0.0, 0.25, 0.9, 2.0}) {
            constexpr double ratio = 0.5;
            const double budget = std::floor(share * 1.5 * static_cast<double>(count));
            changes.expect_bounded(changes.change, budget / (ratio * ratio), ratio, count);
        }
    }
}

TEST(CudaBoundChanges, KeepsAsManyAsMayStay) {
    for (const std::int64_t count : {1, 40, 9001}) {
        const Changes changes(count);
        for (const std::int64_t most : {std::int64_t{0}, std::int64_t{1}, count / 3, count}) {
            changes.expect_bounded({}, 0, 0, most);
        }
    }
}

TEST(CudaBoundChanges, KeepsNoneBehindOneThatIsNoNumber) {
    Changes changes(9001);
    changes.change.set(5, std::nan(""));
    changes.expect_bounded(changes.change, 1e9, 1, changes.count);
}

/// More tiles than the block that sums them up has threads.
TEST(CudaBoundChanges, KeepsTheChangesOfTheLargestScoresAtScale) {
    const Changes changes(513 * 4096 + 5);
    changes.expect_bounded(changes.change, 1.47 * static_cast<double>(changes.count), 1, changes.count * 3 / 5);
}

}  // namespace
}  // namespace pvtune::cuda
