#include "tests/cuda/lattice_matrix.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

/// Every second group and the last.
OwnedTensor some_groups(std::int64_t groups) {
    OwnedTensor chosen(DType::u32, {(groups + 1) / 2});
    chosen.fill([next = -2]() mutable { return next += 2; });
    chosen.set(chosen->elements() - 1, static_cast<double>(groups - 1));
    return chosen;
}

void expect_same_codes(LatticeMatrix matrix, const OwnedTensor& target) {
    const OwnedTensor chosen = some_groups(matrix.groups());
    const DeviceTensor device_target(target);
    const DeviceTensor device_chosen(chosen);
    const LatticeMatrix before = matrix;
    OwnedTensor changed(DType::u8, {chosen->elements()});
    cpu::assign_lattice(matrix.lattice(), changed, target, chosen);
    OwnedTensor saved(DType::u8, {chosen->elements(), matrix.shape.bytes});
    cpu::gather_codes(saved, before.codes, chosen);
    OwnedTensor change(DType::f32, {chosen->elements()});
    cpu::lattice_change(change, matrix.lattice(), saved, chosen);
    for_each_schedule([&] {
        const DeviceLattice device(before);
        const DeviceTensor flags(DType::u8, {chosen->elements()});
        assign_lattice(device.view(), flags.as<std::uint8_t>(), device_target.as<float>(),
                       device_chosen.as<std::uint32_t>(), chosen->elements(), nullptr);
        EXPECT_TRUE(same_bits(flags.download(), changed)) << matrix.shape;
        EXPECT_TRUE(same_bits(device.codes.download(), matrix.codes)) << matrix.shape;
        const DeviceTensor moved(DType::f32, {chosen->elements()});
        const DeviceTensor device_saved(saved);
        lattice_change(moved.as<float>(), device.view(), device_saved.as<std::uint8_t>(),
                       device_chosen.as<std::uint32_t>(), chosen->elements(), nullptr);
        EXPECT_TRUE(same_bits(moved.download(), change)) << matrix.shape;
    });
}

TEST(CudaAssignLattice, MatchesTheCpuBitForBit) {
    for (const LatticeShape& shape : {LatticeShape{5, 24, 2}, LatticeShape{3, 40, 3}, LatticeShape{4, 32, 4}}) {
        const LatticeMatrix matrix(shape, 1);
        const auto scale = static_cast<double>(std::fabs(matrix.scale->as<float>()[0]));
        expect_same_codes(matrix, random_tensor(DType::f32, {shape.rows, shape.columns}, 2, 2 * scale));
    }
}

TEST(CudaAssignLattice, TiesEndTheSame) {
    for (const std::int64_t bytes : {2, 3, 4}) {
        LatticeMatrix matrix({4, 32, bytes}, 3);
        matrix.scale.set(0, 1);
        std::mt19937 engine(4);
        // Whole and half numbers lie between many points.
        OwnedTensor target(DType::f32, {4, 32});
        target.fill([&] { return 0.5 * (static_cast<int>(engine() % 7) - 3); });
        for (std::int64_t i = 0; i < 8; ++i) target.set(i, 0);
        expect_same_codes(matrix, target);
    }
}

TEST(CudaAssignLattice, WhatIsNotFiniteAndAScaleOfZeroKeepTheirCodes) {
    LatticeMatrix matrix({2, 24, 2}, 5);
    OwnedTensor target = random_tensor(DType::f32, {2, 24}, 6);
    target.set(3, NAN);
    target.set(20, INFINITY);
    expect_same_codes(matrix, target);
    matrix.scale.set(0, 0);
    expect_same_codes(matrix, target);
}

TEST(CudaAssignLattice, RefusesWhatItDoesNotCover) {
    LatticeView view;
    view.bytes = 1;
    EXPECT_THROW(assign_lattice(view, nullptr, nullptr, nullptr, 1, nullptr), std::invalid_argument);
    view.bytes = 4;
    EXPECT_NO_THROW(assign_lattice(view, nullptr, nullptr, nullptr, 0, nullptr));
}

}  // namespace
}  // namespace pvtune::cuda
