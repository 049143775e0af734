// The kernels of cuda/lattice_changes.cu against the CPU: the same bits.
#include "tests/cuda/lattice_matrix.h"

namespace pvtune::cuda {
namespace {

OwnedTensor every_second(std::int64_t groups) {
    OwnedTensor chosen(DType::u32, {(groups + 1) / 2});
    chosen.fill([next = -2]() mutable { return next += 2; });
    return chosen;
}

void expect_same_codes(const LatticeMatrix& before, const OwnedTensor& target) {
    const OwnedTensor chosen = every_second(before.groups());
    OwnedTensor flags(DType::u8, {chosen->elements()});
    for (std::int64_t i = 3; i < chosen->elements(); i += 5) flags->as<std::uint8_t>()[i] = 1;
    LatticeMatrix expected = before;
    OwnedTensor changed = flags;
    cpu::lattice_different(expected.lattice(), changed, target, chosen);
    const DeviceTensor device_target(target), device_chosen(chosen);
    for_each_schedule([&] {
        const DeviceLattice device(before);
        const DeviceTensor device_changed(flags);
        lattice_different(device.view(), device_changed.as<std::uint8_t>(), device_target.as<float>(),
                          device_chosen.as<std::uint32_t>(), chosen->elements(), nullptr);
        EXPECT_TRUE(same_bits(device_changed.download(), changed)) << before.shape;
        EXPECT_TRUE(same_bits(device.codes.download(), expected.codes)) << before.shape;
    });
}

TEST(CudaLatticeDifferent, MatchesTheCpuBitForBit) {
    for (const LatticeShape& shape : {LatticeShape{5, 24, 2}, LatticeShape{3, 40, 3}, LatticeShape{4, 32, 4}}) {
        LatticeMatrix matrix(shape, 1);
        const auto scale = static_cast<double>(std::fabs(matrix.scale->as<float>()[0]));
        OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.columns}, 2, 2 * scale);
        expect_same_codes(matrix, target);
        // From the nearest codes, which are left out.
        const OwnedTensor chosen = every_second(matrix.groups());
        OwnedTensor changed(DType::u8, {chosen->elements()});
        cpu::assign_lattice(matrix.lattice(), changed, target, chosen);
        target.set(3, NAN);
        expect_same_codes(matrix, target);
    }
}

TEST(CudaLatticeDifferent, TiesEndTheSame) {
    for (const std::int64_t bytes : {2, 3, 4}) {
        LatticeMatrix matrix({4, 32, bytes}, 3);
        matrix.scale.set(0, 1);
        std::mt19937 engine(4);
        // Whole and half numbers lie between many points.
        OwnedTensor target(DType::f32, {4, 32});
        target.fill([&] { return 0.5 * (static_cast<int>(engine() % 7) - 3); });
        for (std::int64_t i = 0; i < 8; ++i) target.set(i, 0);
        expect_same_codes(matrix, target);
        const OwnedTensor chosen = every_second(matrix.groups());
        OwnedTensor changed(DType::u8, {chosen->elements()});
        cpu::assign_lattice(matrix.lattice(), changed, target, chosen);
        expect_same_codes(matrix, target);
    }
}

TEST(CudaLatticeDistanceAndProduct, HaveTheBitsOfTheCpu) {
    for (const LatticeShape& shape : lattice_shapes) {
        const LatticeMatrix matrix(shape, 5);
        const OwnedTensor dense = random_tensor(DType::f32, {shape.rows, shape.columns}, 6);
        const OwnedTensor chosen = every_second(matrix.groups());
        const std::int64_t n = chosen->elements();
        OwnedTensor saved(DType::u8, {n, shape.bytes}), product(DType::f32, {n}), distance(DType::f32, {n});
        cpu::gather_codes(saved, LatticeMatrix(shape, 7).codes, chosen);
        cpu::lattice_product(product, matrix.lattice(), dense, saved, chosen);
        cpu::lattice_distance(distance, matrix.lattice(), dense, chosen);
        const DeviceLattice device(matrix);
        const DeviceTensor device_dense(dense), device_chosen(chosen), device_saved(saved);
        for_each_schedule([&] {
            const DeviceTensor products(DType::f32, {n}), distances(DType::f32, {n});
            lattice_product(products.as<float>(), device.view(), device_dense.as<float>(),
                            device_saved.as<std::uint8_t>(), device_chosen.as<std::uint32_t>(), n, nullptr);
            lattice_distance(distances.as<float>(), device.view(), device_dense.as<float>(),
                             device_chosen.as<std::uint32_t>(), n, nullptr);
            EXPECT_TRUE(same_bits(products.download(), product)) << shape;
            EXPECT_TRUE(same_bits(distances.download(), distance)) << shape;
        });
    }
}

}  // namespace
}  // namespace pvtune::cuda
