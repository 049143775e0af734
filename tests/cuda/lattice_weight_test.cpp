#include "tests/cuda/lattice_matrix.h"

#include <stdexcept>

namespace pvtune::cuda {
namespace {

TEST(CudaLatticeWeight, MatchesTheCpu) {
    for (const LatticeShape& shape : lattice_shapes) {
        const LatticeMatrix matrix(shape, 1);
        const DeviceLattice device(matrix);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            OwnedTensor weight(dtype, {shape.rows, shape.columns});
            cpu::dequantize_lattice(weight, matrix.lattice());
            const OwnedTensor wanted = random_tensor(DType::f32, {shape.rows, shape.columns}, 4);
            OwnedTensor target(DType::f32, {shape.rows, shape.columns});
            OwnedTensor squares(DType::f32, {shape.rows * shape.columns / 8});
            cpu::lattice_target(target, squares, wanted, weight, matrix.lattice());
            for_each_schedule([&] {
                const DeviceWorkspace workspace(lattice_weight_workspace(shape.rows, shape.columns));
                const DeviceTensor goal(wanted);  // its own memory is the target's
                const DeviceTensor now(weight);
                const DeviceTensor scores(DType::f32, {squares->elements()});
                const DeviceTensor weights(dtype, {shape.rows, shape.columns});
                const auto run = [&]<class T>() {
                    dequantize_lattice(weights.as<T>(), device.view(), device.of_rows(), device.of_columns(),
                                       workspace.data(), nullptr);
                    lattice_target(goal.as<float>(), scores.as<float>(), goal.as<float>(), now.as<T>(), device.view(),
                                   device.of_rows(), device.of_columns(), workspace.data(), nullptr);
                };
                if (dtype == DType::f32) run.template operator()<float>();
                if (dtype == DType::bf16) run.template operator()<bf16>();
                EXPECT_LT(relative_error(goal.download(), values_of(target)), f32_tolerance) << shape;
                EXPECT_LT(relative_error(scores.download(), values_of(squares)), f32_tolerance) << shape;
                // bf16: a sum that differs in its last f32 bits may round to the neighbour.
                EXPECT_LT(relative_error(weights.download(), values_of(weight)),
                          dtype == DType::f32 ? f32_tolerance : 8e-3)
                    << shape;
            });
        }
    }
}

TEST(CudaLatticeWeight, GradientsMatchTheCpu) {
    for (const LatticeShape& shape : lattice_shapes) {
        const LatticeMatrix matrix(shape, 2);
        const DeviceLattice device(matrix);
        const OwnedTensor d_weight = random_tensor(DType::f32, {shape.rows, shape.columns}, 3);
        OwnedTensor d_scale(DType::f32, {1});
        OwnedTensor d_left(DType::f32, {shape.rows});
        OwnedTensor d_right(DType::f32, {shape.columns});
        cpu::lattice_gradient(d_scale, d_left, d_right, d_weight, matrix.lattice());
        OwnedTensor d_codes = d_weight;
        cpu::lattice_code_gradient(d_codes, matrix.lattice());
        for_each_schedule([&] {
            const DeviceTensor gradient(d_weight);
            const DeviceTensor scale(DType::f32, {1});
            const DeviceTensor left(DType::f32, {shape.rows});
            const DeviceTensor right(DType::f32, {shape.columns});
            const DeviceWorkspace workspace(lattice_weight_workspace(shape.rows, shape.columns));
            lattice_gradient(scale.as<float>(), left.as<float>(), right.as<float>(), gradient.as<float>(),
                             device.view(), device.of_rows(), device.of_columns(), workspace.data(), nullptr);
            // One number from sums of mixed signs: against the size of what is added.
            EXPECT_NEAR(values_of(scale.download())[0], values_of(d_scale)[0], 1e-4 * static_cast<double>(shape.rows));
            EXPECT_LT(relative_error(left.download(), values_of(d_left)), 2 * f32_tolerance) << shape;
            EXPECT_LT(relative_error(right.download(), values_of(d_right)), 2 * f32_tolerance) << shape;
            EXPECT_TRUE(same_bits(gradient.download(), d_weight));
            lattice_code_gradient(gradient.as<float>(), device.view(), device.of_rows(), device.of_columns(),
                                  workspace.data(), nullptr);
            EXPECT_LT(relative_error(gradient.download(), values_of(d_codes)), f32_tolerance) << shape;
        });
    }
}

TEST(CudaLatticeWeight, RefusesWhatItDoesNotCover) {
    LatticeView view;
    view.rows = 4;
    view.groups = 2;
    view.bytes = 5;
    const auto dequantize = [&] { dequantize_lattice(static_cast<float*>(nullptr), view, {}, {}, nullptr, nullptr); };
    EXPECT_THROW(dequantize(), std::invalid_argument);
    view.bytes = 2;
    view.rows = 0;
    EXPECT_NO_THROW(dequantize());
}

}  // namespace
}  // namespace pvtune::cuda
