#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

TEST(MseLoss, AgreesWithPlainLoopsInPlaceAndWithoutAGradient) {
    constexpr float scale = 0.5F;
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t width : {1, 5, 64, 70}) {
            constexpr std::int64_t rows = 7;
            OwnedTensor out = random_tensor(dtype, {rows, width}, 1);
            const OwnedTensor target = random_tensor(dtype, {rows, width}, 2);
            const Values a = values_of(out);
            const Values b = values_of(target);
            Values expected(rows);
            Values expected_gradient(a.size());
            for (std::size_t i = 0; i < a.size(); ++i) {
                const double difference = a[i] - b[i];
                expected[i / static_cast<std::size_t>(width)] += difference * difference / static_cast<double>(width);
                expected_gradient[i] = static_cast<double>(scale) * difference;
            }
            OwnedTensor losses(DType::f32, {rows});
            mse_loss(losses, {}, out, target, scale);
            EXPECT_LT(relative_error(losses, expected), tolerance_of(DType::f32));
            OwnedTensor again(DType::f32, {rows});
            mse_loss(again, out, out, target, scale);
            EXPECT_TRUE(same_bits(losses, again));
            EXPECT_LT(relative_error(out, expected_gradient), tolerance_of(dtype));
        }
    }
}

TEST(HessianAccumulate, AddsTheProductOfTheInputs) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        constexpr std::int64_t width = 37;
        OwnedTensor hessian(DType::f32, {width, width});
        Values expected(width * width);
        for (const std::uint64_t seed : {1, 2}) {
            const OwnedTensor in = random_tensor(dtype, {21, width}, seed);
            const Values x = values_of(in);
            for (std::size_t t = 0; t < 21; ++t) {
                for (std::size_t i = 0; i < width; ++i) {
                    for (std::size_t j = 0; j < width; ++j)
                        expected[i * width + j] += x[t * width + i] * x[t * width + j];
                }
            }
            hessian_accumulate(hessian, in);
        }
        // Products of bf16 numbers are exact in f32: the sums alone round.
        EXPECT_LT(relative_error(hessian, expected), 1e-5);
    }
}

}  // namespace
}  // namespace pvtune::cpu
