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

TEST(CudaBoundChanges, KeepsTheChangesOfTheLargestScores) {
    for (const std::int64_t count : {1, 40, 9001}) {
        const std::int64_t groups = 3 * count;
        std::mt19937 engine(3);
        OwnedTensor scores(DType::f32, {groups});
        scores.fill([&] { return static_cast<double>(engine() % 50); });  // ties
        const OwnedTensor chosen = some_groups(groups);
        OwnedTensor change(DType::f32, {count});
        // Whole numbers: their sums do not depend on the order of additions, and some reach the budget exactly.
        change.fill([&] { return static_cast<double>(engine() % 4); });
        OwnedTensor changed(DType::u8, {count});
        for (std::int64_t i = 0; i < count; ++i) changed->as<std::uint8_t>()[i] = engine() % 8 == 0 ? 0 : 1;
        for (const double share : {0.0, 0.25, 0.9, 2.0}) {
            const double ratio = 0.5;
            const double squares = std::floor(share * 1.5 * static_cast<double>(count)) / (ratio * ratio);
            OwnedTensor weight_squares(DType::f64, {1});
            weight_squares->as<double>()[0] = squares;
            OwnedTensor expected = changed;
            cpu::bound_changes(expected, change, scores, chosen, weight_squares, ratio, count);
            const DeviceTensor device_squares(weight_squares);
            const DeviceTensor device_change(change);
            const DeviceTensor device_scores(scores);
            const DeviceTensor device_chosen(chosen);
            for_each_schedule([&] {
                const DeviceTensor keep(changed);
                const DeviceWorkspace workspace(bound_changes_workspace(count));
                bound_changes(keep.as<std::uint8_t>(), device_change.as<float>(), device_scores.as<float>(),
                              device_chosen.as<std::uint32_t>(), count, device_squares.as<double>(), ratio, count,
                              workspace.data(), nullptr);
                EXPECT_TRUE(same_bits(keep.download(), expected)) << count << " changes, share " << share;
            });
        }
    }
}

TEST(CudaBoundChanges, KeepsAsManyAsMayStay) {
    for (const std::int64_t count : {1, 40, 9001}) {
        const std::int64_t groups = 3 * count;
        std::mt19937 engine(4);
        OwnedTensor scores(DType::f32, {groups});
        scores.fill([&] { return static_cast<double>(engine() % 50); });  // ties
        const OwnedTensor chosen = some_groups(groups);
        OwnedTensor changed(DType::u8, {count});
        for (std::int64_t i = 0; i < count; ++i) changed->as<std::uint8_t>()[i] = engine() % 3 == 0 ? 0 : 1;
        for (const std::int64_t most : {std::int64_t{0}, std::int64_t{1}, count / 3, count}) {
            OwnedTensor expected = changed;
            cpu::bound_changes(expected, {}, scores, chosen, {}, 0, most);
            const DeviceTensor device_scores(scores);
            const DeviceTensor device_chosen(chosen);
            for_each_schedule([&] {
                const DeviceTensor keep(changed);
                const DeviceWorkspace workspace(bound_changes_workspace(count));
                bound_changes(keep.as<std::uint8_t>(), nullptr, device_scores.as<float>(),
                              device_chosen.as<std::uint32_t>(), count, nullptr, 0, most, workspace.data(), nullptr);
                EXPECT_TRUE(same_bits(keep.download(), expected)) << count << " changes, " << most << " may stay";
            });
        }
    }
}

}  // namespace
}  // namespace pvtune::cuda
