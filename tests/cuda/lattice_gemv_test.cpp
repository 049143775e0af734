#include "tests/cuda/lattice_matrix.h"

namespace pvtune::cuda {
namespace {

TEST(CudaLatticeGemv, MatchesTheCpu) {
    for (const LatticeShape& shape : {lattice_shapes[0], lattice_shapes[1], lattice_shapes[2], lattice_shapes[3],
                                      lattice_shapes[4], LatticeShape{9, 288, 2}}) {
        const LatticeMatrix matrix(shape, 4);
        const DeviceLattice device(matrix);
        const OwnedTensor bias = random_tensor(DType::f32, {shape.rows}, 5);
        const DeviceTensor device_bias(bias);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const OwnedTensor in = random_tensor(dtype, {1, shape.columns}, 6);
            const DeviceTensor device_in(in);
            for (const bool with_bias : {false, true}) {
                OwnedTensor expected(dtype, {1, shape.rows});
                cpu::lattice_gemv(expected, in, matrix.lattice(), with_bias ? Tensor(bias) : Tensor());
                for_each_schedule([&] {
                    const DeviceWorkspace workspace(lattice_gemv_workspace(shape.rows, shape.columns));
                    const DeviceTensor out(dtype, {1, shape.rows});
                    const auto run = [&]<class T>() {
                        lattice_gemv(out.as<T>(), device_in.as<T>(), with_bias ? device_bias.as<float>() : nullptr,
                                     device.view(), device.of_rows(), device.of_columns(), workspace.data(), nullptr);
                    };
                    if (dtype == DType::f32) run.template operator()<float>();
                    if (dtype == DType::bf16) run.template operator()<bf16>();
                    EXPECT_LT(relative_error(out.download(), values_of(expected)),
                              dtype == DType::f32 ? 2 * f32_tolerance : 8e-3)
                        << shape;
                });
            }
        }
    }
}

}  // namespace
}  // namespace pvtune::cuda
