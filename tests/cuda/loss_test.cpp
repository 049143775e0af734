#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

constexpr float scale = 0.25F;
// Losses up to 12: on both sides each of the two log-sum-exps and the sum round at 2^-21, exponentials at 2^-22 of
// themselves.
constexpr double loss_tolerance = 1e-5;

struct Operands {
    std::int64_t rows, vocabulary;
    OwnedTensor logits, teacher, targets;
    Operands(std::int64_t rows_, std::int64_t vocabulary_, double size = 5)
        : rows(rows_),
          vocabulary(vocabulary_),
          logits(random_tensor(DType::f32, {rows, vocabulary}, 1, size)),
          teacher(random_tensor(DType::f32, {rows, vocabulary}, 2, size)),
          targets(random_ids(rows, vocabulary, 3)) {}
};

void expect_near(Tensor got, Tensor expected, double tolerance) {
    const Values a = values_of(got);
    const Values b = values_of(expected);
    for (std::size_t i = 0; i < a.size(); ++i) {
        ASSERT_NEAR(a[i], b[i], tolerance + (got.dtype == DType::bf16 ? 0x1p-7 * std::abs(b[i]) : 0)) << i;
    }
}

template <class T>
void expect_kl_agrees(const Operands& o) {
    SCOPED_TRACE(std::to_string(o.rows) + " x " + std::to_string(o.vocabulary));
    OwnedTensor expected_loss(DType::f32, {o.rows});
    OwnedTensor expected(dtype_of<T>, {o.rows, o.vocabulary});
    cpu::kl_loss(expected_loss, expected, o.logits, o.teacher, scale);
    const DeviceTensor logits(o.logits);
    const DeviceTensor teacher(o.teacher);
    const DeviceTensor loss(DType::f32, {o.rows});
    const DeviceTensor loss_alone(DType::f32, {o.rows});
    const DeviceTensor d_logits(dtype_of<T>, {o.rows, o.vocabulary});
    kl_loss<T>(loss_alone.as<float>(), nullptr, logits.as<float>(), teacher.as<float>(), o.rows, o.vocabulary, scale,
               nullptr);
    kl_loss(loss.as<float>(), d_logits.as<T>(), logits.as<float>(), teacher.as<float>(), o.rows, o.vocabulary, scale,
            nullptr);
    expect_near(loss.download(), expected_loss, loss_tolerance);
    expect_near(d_logits.download(), expected, loss_tolerance);
    EXPECT_TRUE(same_bits(loss.download(), loss_alone.download()));
    if constexpr (sizeof(T) == sizeof(float)) {
        kl_loss(loss_alone.as<float>(), logits.as<float>(), logits.as<float>(), teacher.as<float>(), o.rows,
                o.vocabulary, scale, nullptr);
        EXPECT_TRUE(same_bits(logits.download(), d_logits.download())) << "in place";
        EXPECT_TRUE(same_bits(loss_alone.download(), loss.download())) << "in place";
    }
}

template <class T>
void expect_cross_entropy_agrees(const Operands& o) {
    SCOPED_TRACE(std::to_string(o.rows) + " x " + std::to_string(o.vocabulary));
    OwnedTensor expected_loss(DType::f32, {o.rows});
    OwnedTensor expected(dtype_of<T>, {o.rows, o.vocabulary});
    cpu::cross_entropy_loss(expected_loss, expected, o.logits, o.targets, scale);
    const DeviceTensor logits(o.logits);
    const DeviceTensor targets(o.targets);
    const DeviceTensor loss(DType::f32, {o.rows});
    const DeviceTensor loss_alone(DType::f32, {o.rows});
    const DeviceTensor d_logits(dtype_of<T>, {o.rows, o.vocabulary});
    cross_entropy_loss<T>(loss_alone.as<float>(), nullptr, logits.as<float>(), targets.as<std::uint32_t>(), o.rows,
                          o.vocabulary, scale, nullptr);
    cross_entropy_loss(loss.as<float>(), d_logits.as<T>(), logits.as<float>(), targets.as<std::uint32_t>(), o.rows,
                       o.vocabulary, scale, nullptr);
    expect_near(loss.download(), expected_loss, loss_tolerance);
    expect_near(d_logits.download(), expected, loss_tolerance);
    EXPECT_TRUE(same_bits(loss.download(), loss_alone.download()));
    if constexpr (sizeof(T) == sizeof(float)) {
        cross_entropy_loss(loss_alone.as<float>(), logits.as<float>(), logits.as<float>(), targets.as<std::uint32_t>(),
                           o.rows, o.vocabulary, scale, nullptr);
        EXPECT_TRUE(same_bits(logits.download(), d_logits.download())) << "in place";
        EXPECT_TRUE(same_bits(loss_alone.download(), loss.download())) << "in place";
    }
}

// Rows of odd lengths start at every place of 16 bytes.
TEST(CudaLoss, AgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t vocabulary : {1, 3, 64, 70, 301}) {
            const Operands o(5, vocabulary);
            expect_kl_agrees<float>(o);
            expect_kl_agrees<bf16>(o);
            expect_cross_entropy_agrees<float>(o);
            expect_cross_entropy_agrees<bf16>(o);
        }
    });
}

Values log_softmax(const float* logits, std::int64_t count) {
    Values result(logits, logits + count);
    const double largest = *std::max_element(result.begin(), result.end());
    double sum = 0;
    for (const double value : result) sum += std::exp(value - largest);
    for (double& value : result) value -= largest + std::log(sum);
    return result;
}

/// Against plain loops in double: losses within `absolute`, gradients within `relative` of the largest.
void expect_agreement_with_double(const Operands& o, double absolute, double relative) {
    SCOPED_TRACE(std::to_string(o.rows) + " x " + std::to_string(o.vocabulary));
    const DeviceTensor logits(o.logits);
    const DeviceTensor kl(DType::f32, {o.rows});
    const DeviceTensor d_kl(DType::f32, {o.rows, o.vocabulary});
    const DeviceTensor cross_entropy(DType::f32, {o.rows});
    kl_loss(kl.as<float>(), d_kl.as<float>(), logits.as<float>(), DeviceTensor(o.teacher).as<float>(), o.rows,
            o.vocabulary, scale, nullptr);
    cross_entropy_loss(cross_entropy.as<float>(), logits.as<float>(), logits.as<float>(),
                       DeviceTensor(o.targets).as<std::uint32_t>(), o.rows, o.vocabulary, scale, nullptr);
    Values expected_kl;
    Values expected_cross_entropy;
    for (std::int64_t row = 0; row < o.rows; ++row) {
        const Values q = log_softmax(o.logits->as<float>() + row * o.vocabulary, o.vocabulary);
        const Values p = log_softmax(o.teacher->as<float>() + row * o.vocabulary, o.vocabulary);
        const std::size_t target = o.targets->as<std::uint32_t>()[row];
        double divergence = 0;
        for (std::size_t i = 0; i < p.size(); ++i) {
            divergence += std::exp(p[i]) * (p[i] - q[i]);
            expected_kl.push_back(static_cast<double>(scale) * (std::exp(q[i]) - std::exp(p[i])));
            expected_cross_entropy.push_back(static_cast<double>(scale) * (std::exp(q[i]) - (i == target ? 1 : 0)));
        }
        EXPECT_NEAR(values_of(kl.download())[static_cast<std::size_t>(row)], divergence, absolute);
        EXPECT_NEAR(values_of(cross_entropy.download())[static_cast<std::size_t>(row)], -q[target], absolute);
    }
    EXPECT_LT(relative_error(d_kl.download(), expected_kl), relative);
    EXPECT_LT(relative_error(logits.download(), expected_cross_entropy), relative);
}

// Rows of more pieces than a block has threads, and of more than shared memory keeps between the two passes. On the CPU
// such a row is one chain of f32 sums; here chains have up to a hundred roundings, and exponentials are within 2^-21 of
// themselves.
TEST(CudaLoss, LongRowsAgreeWithDouble) {
    for (const std::int64_t vocabulary : {5003, 33001, 64003}) {
        expect_agreement_with_double(Operands(1, vocabulary), 3e-6, 3e-6);
    }
}

TEST(CudaLoss, NoDivergenceFromItself) {
    const Operands o(3, 5003);
    const DeviceTensor logits(o.logits);
    const DeviceTensor loss(DType::f32, {3});
    const DeviceTensor d_logits(DType::f32, {3, 5003});
    kl_loss(loss.as<float>(), d_logits.as<float>(), logits.as<float>(), logits.as<float>(), 3, 5003, scale, nullptr);
    EXPECT_TRUE(same_bits(loss.download(), OwnedTensor(DType::f32, {3})));
    EXPECT_TRUE(same_bits(d_logits.download(), OwnedTensor(DType::f32, {3, 5003})));
}

// Logits of 1e4 have exponents that f32 holds to 1e-3: so good are probabilities that are not nearly 0 or 1.
TEST(CudaLoss, HugeLogits) { expect_agreement_with_double(Operands(5, 70, 1e4), 1e-2, 1e-3); }

TEST(CudaLoss, ANanInARowIsANanInItsLossOnly) {
    Operands o(3, 70);
    o.logits.set(70 + 33, NAN);
    const DeviceTensor logits(o.logits);
    const DeviceTensor loss(DType::f32, {3});
    const DeviceTensor d_logits(DType::bf16, {3, 70});
    const auto expect_second_nan = [&] {
        const Values losses = values_of(loss.download());
        EXPECT_TRUE(std::isfinite(losses[0]) && std::isnan(losses[1]) && std::isfinite(losses[2]));
        EXPECT_TRUE(std::isnan(values_of(d_logits.download())[70]));
    };
    kl_loss(loss.as<float>(), d_logits.as<bf16>(), logits.as<float>(), DeviceTensor(o.teacher).as<float>(), 3, 70,
            scale, nullptr);
    expect_second_nan();
    cross_entropy_loss(loss.as<float>(), d_logits.as<bf16>(), logits.as<float>(),
                       DeviceTensor(o.targets).as<std::uint32_t>(), 3, 70, scale, nullptr);
    expect_second_nan();
}

}  // namespace
}  // namespace pvtune::cuda
