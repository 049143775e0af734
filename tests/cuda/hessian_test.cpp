#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

constexpr float factor = 0.5F;

OwnedTensor symmetric(std::int64_t width) {
    OwnedTensor matrix = random_tensor(DType::f32, {width, width}, 7);
    for (std::int64_t i = 0; i < width; ++i) {
        for (std::int64_t j = 0; j < i; ++j) {
            matrix->as<float>()[j * width + i] = matrix->as<float>()[i * width + j];
        }
    }
    return matrix;
}

Values plain_loops(const OwnedTensor& hessian, const OwnedTensor& in) {
    const auto width = static_cast<std::size_t>(in->dim(1));
    Values sums = values_of(hessian);
    const Values rows = values_of(in);
    for (std::size_t t = 0; t < rows.size(); t += width) {
        for (std::size_t i = 0; i < width; ++i) {
            for (std::size_t j = 0; j < width; ++j) {
                sums[i * width + j] += static_cast<double>(factor) * rows[t + i] * rows[t + j];
            }
        }
    }
    return sums;
}

template <class T>
void expect_agreement(std::int64_t tokens, std::int64_t width) {
    SCOPED_TRACE(std::to_string(tokens) + " x " + std::to_string(width));
    const OwnedTensor in = random_tensor(dtype_of<T>, {tokens, width}, 1);
    const OwnedTensor before = symmetric(width);
    const DeviceTensor hessian(before);
    hessian_accumulate(hessian.as<float>(), DeviceTensor(in).as<T>(), tokens, width, factor, nullptr);
    const OwnedTensor after = hessian.download();
    // Products of bf16 are exact in f32, so that both dtypes round in the sums only.
    EXPECT_LT(relative_error(after, plain_loops(before, in)), f32_tolerance);
    const float* h = after->as<float>();
    for (std::int64_t i = 0; i < width; ++i) {
        for (std::int64_t j = 0; j < i; ++j) ASSERT_EQ(h[i * width + j], h[j * width + i]) << i << ", " << j;
    }
}

TEST(CudaHessian, AgreesWithPlainLoops) {
    for_each_schedule([] {
        for (const std::int64_t tokens : {1, 33, 131}) {
            for (const std::int64_t width : {1, 7, 72}) {
                expect_agreement<float>(tokens, width);
                expect_agreement<bf16>(tokens, width);
            }
        }
    });
}

TEST(CudaHessian, OfSeveralTiles) {
    expect_agreement<float>(19, 300);
    expect_agreement<bf16>(19, 301);
    expect_agreement<bf16>(70, 200);
    expect_agreement<bf16>(33, 1096);  // more rows of tiles than a band has
}

TEST(CudaHessian, OfWideRows) { expect_agreement<bf16>(20, 1544); }

TEST(CudaHessian, NoTokensChangeNothing) {
    hessian_accumulate<float>(nullptr, nullptr, 0, 64, factor, nullptr);
    finish();
}

}  // namespace
}  // namespace pvtune::cuda
