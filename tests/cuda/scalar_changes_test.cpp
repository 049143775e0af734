// The kernels of cuda/scalar_changes.cu against the CPU: the same bits.
#include "tests/scalar_matrix.h"

#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_scalar.h"

namespace pvtune::cuda {
namespace {

TEST(CudaScalarDifferent, TakesTheCodesOfTheCpu) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        ScalarMatrix before(shape, 1);
        OwnedTensor target = random_tensor(DType::f32, {shape.rows, shape.columns}, 2, 3);
        const OwnedTensor chosen = some_weights(shape.rows * shape.columns);
        const std::int64_t n = chosen->elements();
        for (std::int64_t i = 0; i < n; i += 2) {  // on a code, or half way between two
            const std::int64_t at = chosen->as<std::uint32_t>()[i];
            const auto grid = static_cast<std::int64_t>(before.grid_of(at));
            before.scales.set(grid, 0.25);
            before.zeros.set(grid, 1.5);
            target.set(at, 0.125 * static_cast<double>(i % 16));
        }
        target.set(chosen->as<std::uint32_t>()[n - 1], NAN);
        OwnedTensor flags(DType::u8, {n});
        for (std::int64_t i = 0; i < n; ++i) flags->as<std::uint8_t>()[i] = i % 7 == 3 ? 1 : 0;
        ScalarMatrix expected = before;
        OwnedTensor changed = flags;
        cpu::scalar_different(expected.scalar(), changed, target, chosen);
        const DeviceTensor device_target(target), device_chosen(chosen);
        for_each_schedule([&] {
            const DeviceScalar device(before);
            const DeviceTensor device_changed(flags);
            scalar_different(device.view(), device_changed.as<std::uint8_t>(), device_target.as<float>(),
                             device_chosen.as<std::uint32_t>(), n, nullptr);
            EXPECT_TRUE(same_bits(device.codes.download(), expected.codes));
            EXPECT_TRUE(same_bits(device_changed.download(), changed));
        });
    }
}

TEST(CudaScalarDistanceAndProduct, HaveTheBitsOfTheCpu) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix matrix(shape, 3);
        const OwnedTensor dense = random_tensor(DType::f32, {shape.rows, shape.columns}, 4);
        const OwnedTensor chosen = some_weights(shape.rows * shape.columns);
        const std::int64_t n = chosen->elements();
        OwnedTensor saved(DType::u8, {n, 1}), product(DType::f32, {n}), distance(DType::f32, {n});
        cpu::gather_codes(saved, ScalarMatrix(shape, 5).codes, chosen);
        cpu::scalar_product(product, matrix.scalar(), dense, saved, chosen);
        cpu::scalar_distance(distance, matrix.scalar(), dense, chosen);
        const DeviceScalar device(matrix);
        const DeviceTensor device_dense(dense), device_chosen(chosen), device_saved(saved);
        for_each_schedule([&] {
            const DeviceTensor products(DType::f32, {n}), distances(DType::f32, {n});
            scalar_product(products.as<float>(), device.view(), device_dense.as<float>(),
                           device_saved.as<std::uint8_t>(), device_chosen.as<std::uint32_t>(), n, nullptr);
            scalar_distance(distances.as<float>(), device.view(), device_dense.as<float>(),
                            device_chosen.as<std::uint32_t>(), n, nullptr);
            EXPECT_TRUE(same_bits(products.download(), product));
            EXPECT_TRUE(same_bits(distances.download(), distance));
        });
    }
}

TEST(CudaScalarEagerScore, HasTheBitsOfTheCpu) {
    for (const ScalarShape& shape : scalar_shapes) {
        SCOPED_TRACE(shape);
        const ScalarMatrix matrix(shape, 6);
        const std::int64_t count = shape.rows * shape.columns;
        OwnedTensor gradient = random_tensor(DType::f32, {shape.rows, shape.columns}, 7);
        for (std::int64_t i = 0; i < count; i += 11) gradient.set(i, i % 2 == 0 ? 0 : NAN);
        const DeviceScalar device(matrix);
        const DeviceTensor device_gradient(gradient);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            OwnedTensor moment(dtype, {shape.rows, shape.columns});
            moment.fill([next = 0]() mutable { return 0.01 + 0.02 * (++next % 9); });
            OwnedTensor scores(DType::f32, {count}), changes(DType::u32, {count});
            cpu::scalar_eager_score(scores, changes, matrix.scalar(), gradient, moment, 1.5F, 1e-8F);
            const DeviceTensor device_moment(moment);
            for_each_schedule([&] {
                const DeviceTensor device_scores(DType::f32, {count}), device_changes(DType::u32, {count});
                const auto run = [&](const auto* v) {
                    scalar_eager_score(device_scores.as<float>(), device_changes.as<std::uint32_t>(), device.view(),
                                       device_gradient.as<float>(), v, 1.5F, 1e-8F, nullptr);
                };
                if (dtype == DType::f32) run(device_moment.as<float>());
                if (dtype == DType::bf16) run(device_moment.as<bf16>());
                EXPECT_TRUE(same_bits(device_scores.download(), scores));
                EXPECT_TRUE(same_bits(device_changes.download(), changes));
            });
        }
    }
}

}  // namespace
}  // namespace pvtune::cuda
