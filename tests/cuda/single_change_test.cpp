#include "tests/cuda/additive_matrix.h"

#include <cmath>

namespace pvtune::cuda {
namespace {

const AdditiveShape shapes[] = {
    {5, 7, 8, 2, 256, DType::u8},   {3, 5, 4, 1, 256, DType::u8},    {33, 3, 16, 3, 20, DType::u8},
    {17, 9, 8, 2, 300, DType::u16}, {21, 9, 8, 1, 1000, DType::u16}, {4, 9, 8, 5, 256, DType::u8},
};

/// Codewords of whole numbers repeat and are at the same distance: ties of every kind.
AdditiveMatrix with_ties(const AdditiveShape& shape) {
    AdditiveMatrix matrix(shape, 5);
    std::mt19937 engine(6);
    matrix.codebooks.fill([&] { return static_cast<double>(engine() % 3) - 1; });
    matrix.scales.fill([next = 0]() mutable { return ++next % 2 ? 1 : -2; });
    return matrix;
}

OwnedTensor all_but_a_few(std::int64_t groups) {
    OwnedTensor chosen(DType::u32, {groups - groups / 10});
    for (std::int64_t i = 0; i < chosen->elements(); ++i) chosen.set(i, static_cast<double>(groups - 1 - i));
    return chosen;
}

/// |target - What|^2 of every group.
Values distances(const AdditiveMatrix& matrix, const OwnedTensor& target, const OwnedTensor& chosen) {
    OwnedTensor distance(DType::f32, {chosen->elements()});
    cpu::code_distance(distance, matrix.additive(), target, chosen);
    return values_of(distance);
}

TEST(CudaAssignDifferent, MatchesTheCpu) {
    for (const AdditiveShape& shape : shapes) {
        SCOPED_TRACE(shape);
        for (const bool ties : {false, true}) {
            const AdditiveMatrix before = ties ? with_ties(shape) : AdditiveMatrix(shape, 1);
            OwnedTensor target = random_tensor(DType::f32, {shape.rows, before.columns()}, 2);
            std::mt19937 engine(3);
            if (ties) target.fill([&] { return static_cast<double>(engine() % 5) - 2; });
            target.set(shape.group + 1, NAN);  // the second group stays
            const OwnedTensor chosen = all_but_a_few(before.group_count());
            const std::int64_t count = chosen->elements();
            OwnedTensor changed(DType::u8, {count});
            for (std::int64_t i = 0; i < count; ++i) changed->as<std::uint8_t>()[i] = i % 7 == 0 ? 1 : 0;
            AdditiveMatrix expected = before;
            OwnedTensor expected_changed = changed;
            cpu::assign_different(expected.additive(), expected_changed, target, chosen);

            const DeviceTensor device_target(target);
            const DeviceTensor device_chosen(chosen);
            for_each_schedule([&] {
                const DeviceMatrix matrix(before);
                const DeviceTensor device_changed(changed);
                matrix.with_view([&]<class Code>(const AdditiveView<Code>& view) {
                    assign_different(view, device_changed.as<std::uint8_t>(), device_target.as<float>(),
                                     device_chosen.as<std::uint32_t>(), count, nullptr);
                });
                EXPECT_TRUE(same_bits(device_changed.download(), expected_changed));
                const OwnedTensor codes = matrix.codes.download();
                if (same_bits(codes, expected.codes)) return;
                EXPECT_FALSE(ties) << "whole numbers have no roundings";
                // Codes that differ are as near, to rounding.
                AdditiveMatrix got = before;
                got.codes = codes;
                const Values a = distances(got, target, chosen);
                const Values b = distances(expected, target, chosen);
                for (std::size_t i = 0; i < a.size(); ++i) {
                    if (std::isfinite(a[i])) {
                        EXPECT_NEAR(a[i], b[i], 1e-5 * b[i]);
                    }
                }
            });
        }
    }
}

TEST(CudaEagerScore, MatchesTheCpu) {
    for (const AdditiveShape& shape : shapes) {
        SCOPED_TRACE(shape);
        for (const DType moment_type : {DType::f32, DType::bf16}) {
            const AdditiveMatrix before(shape, 10);
            const std::int64_t groups = before.group_count();
            const OwnedTensor gradient = random_tensor(DType::f32, {shape.rows, before.columns()}, 11);
            OwnedTensor moment(moment_type, {shape.rows, before.columns()});
            moment.fill([next = 0]() mutable { return 0.01 + 0.02 * (++next % 9); });
            OwnedTensor scores(DType::f32, {groups});
            OwnedTensor changes(DType::u32, {groups});
            cpu::eager_score(scores, changes, before.additive(), gradient, moment, 1.5F, 1e-8F);
            const OwnedTensor chosen = all_but_a_few(groups);
            AdditiveMatrix applied = before;
            OwnedTensor changed(DType::u8, {chosen->elements()});
            cpu::apply_changes(applied.codes, changed, changes, scores, chosen, shape.size);

            const DeviceTensor device_gradient(gradient);
            const DeviceTensor device_moment(moment);
            for_each_schedule([&] {
                const DeviceMatrix matrix(before);
                const DeviceTensor device_scores(DType::f32, {groups});
                const DeviceTensor device_changes(DType::u32, {groups});
                matrix.with_view([&]<class Code>(const AdditiveView<Code>& view) {
                    const auto run = [&](const auto* v) {
                        eager_score(device_scores.as<float>(), device_changes.as<std::uint32_t>(), view,
                                    device_gradient.as<float>(), v, 1.5F, 1e-8F, nullptr);
                    };
                    if (moment_type == DType::f32) run(device_moment.as<float>());
                    if (moment_type == DType::bf16) run(device_moment.as<bf16>());
                });
                const OwnedTensor got = device_scores.download();
                for (std::int64_t j = 0; j < groups; ++j) {
                    const float expected = scores->as<float>()[j];
                    if (std::isfinite(expected)) {
                        EXPECT_NEAR(got->as<float>()[j], expected, 1e-5F * std::abs(expected) + 1e-6F);
                    } else {
                        EXPECT_EQ(got->as<float>()[j], expected);
                    }
                }
                // The CPU's choice, so that a rounding between two changes does not matter here.
                const DeviceTensor cpu_scores(scores);
                const DeviceTensor cpu_changes(changes);
                const DeviceTensor device_chosen(chosen);
                const DeviceTensor device_changed(DType::u8, {chosen->elements()});
                matrix.with_view([&]<class Code>(const AdditiveView<Code>& view) {
                    apply_changes(view.codes, device_changed.as<std::uint8_t>(), cpu_changes.as<std::uint32_t>(),
                                  cpu_scores.as<float>(), device_chosen.as<std::uint32_t>(), chosen->elements(),
                                  view.books, view.codebook_size, nullptr);
                });
                EXPECT_TRUE(same_bits(device_changed.download(), changed));
                EXPECT_TRUE(same_bits(matrix.codes.download(), applied.codes));
            });
        }
    }
}

}  // namespace
}  // namespace pvtune::cuda
