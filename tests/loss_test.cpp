#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

Values row_of(const Values& all, std::int64_t row, std::int64_t width) {
    return {all.begin() + row * width, all.begin() + (row + 1) * width};
}

Values log_softmax(const Values& logits) {
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - largest);
    Values result = logits;
    for (double& value : result) value -= largest + std::log(sum);
    return result;
}

double divergence(const Values& teacher, const Values& logits) {
    const Values p = log_softmax(teacher);
    const Values q = log_softmax(logits);
    double sum = 0;
    for (std::size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
    return sum;
}

constexpr float scale = 0.25F;
// Losses up to 12: each of the two log-sum-exps and the sum round at 2^-21, exponentials at 2^-22 of themselves.
constexpr double loss_tolerance = 1e-5;

struct Operands {
    std::int64_t rows, vocabulary;
    OwnedTensor logits, teacher, targets;
    Operands(std::int64_t rows_, std::int64_t vocabulary_)
        : rows(rows_),
          vocabulary(vocabulary_),
          logits(random_tensor(DType::f32, {rows, vocabulary}, 1, 5)),
          teacher(random_tensor(DType::f32, {rows, vocabulary}, 2, 5)),
          targets(random_ids(rows, vocabulary, 3)) {}
};

template <class Check>
void for_all(Check check) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t rows : {1, 7, 33}) {
            for (const std::int64_t vocabulary : {1, 5, 64, 70}) check(dtype, Operands(rows, vocabulary));
        }
    }
}

TEST(KlLoss, ValueAndGradient) {
    for_all([](DType dtype, const Operands& o) {
        OwnedTensor loss(DType::f32, {o.rows});
        OwnedTensor d_logits(dtype, {o.rows, o.vocabulary});
        kl_loss(loss, d_logits, o.logits, o.teacher, scale);
        const Values logits = values_of(o.logits);
        const Values teacher = values_of(o.teacher);
        const Values losses = values_of(loss);
        const Values gradients = values_of(d_logits);
        for (std::int64_t t = 0; t < o.rows; ++t) {
            const Values from = row_of(teacher, t, o.vocabulary);
            const Values at = row_of(logits, t, o.vocabulary);
            EXPECT_NEAR(losses[static_cast<std::size_t>(t)], divergence(from, at), loss_tolerance);
            const Values expected =
                numeric_gradient(at, [&](const Values& x) { return static_cast<double>(scale) * divergence(from, x); });
            const Values got = row_of(gradients, t, o.vocabulary);
            for (std::size_t i = 0; i < got.size(); ++i) {
                EXPECT_NEAR(got[i], expected[i],
                            loss_tolerance + (dtype == DType::bf16 ? 0x1p-8 * std::abs(got[i]) : 0));
            }
        }
    });
}

TEST(KlLoss, NoDivergenceFromItself) {
    const Operands o(7, 70);
    OwnedTensor loss(DType::f32, {7});
    OwnedTensor d_logits(DType::f32, {7, 70});
    kl_loss(loss, d_logits, o.logits, o.logits, scale);
    EXPECT_TRUE(same_bits(loss, OwnedTensor(DType::f32, {7})));
    EXPECT_TRUE(same_bits(d_logits, OwnedTensor(DType::f32, {7, 70})));
}

TEST(CrossEntropyLoss, ValueAndGradient) {
    for_all([](DType dtype, const Operands& o) {
        OwnedTensor loss(DType::f32, {o.rows});
        OwnedTensor d_logits(dtype, {o.rows, o.vocabulary});
        cross_entropy_loss(loss, d_logits, o.logits, o.targets, scale);
        OwnedTensor loss_alone(DType::f32, {o.rows});
        cross_entropy_loss(loss_alone, {}, o.logits, o.targets, scale);
        EXPECT_TRUE(same_bits(loss, loss_alone));
        const Values logits = values_of(o.logits);
        const Values losses = values_of(loss);
        const Values gradients = values_of(d_logits);
        for (std::int64_t t = 0; t < o.rows; ++t) {
            const std::size_t target = o.targets->as<std::uint32_t>()[t];
            const Values at = row_of(logits, t, o.vocabulary);
            EXPECT_NEAR(losses[static_cast<std::size_t>(t)], -log_softmax(at)[target], loss_tolerance);
            const Values expected = numeric_gradient(
                at, [&](const Values& x) { return -static_cast<double>(scale) * log_softmax(x)[target]; });
            const Values got = row_of(gradients, t, o.vocabulary);
            for (std::size_t i = 0; i < got.size(); ++i) {
                EXPECT_NEAR(got[i], expected[i],
                            loss_tolerance + (dtype == DType::bf16 ? 0x1p-8 * std::abs(got[i]) : 0));
            }
        }
    });
}

// Logits of 1e4: f32 holds them to 1e-3, so the losses are good to some multiple of that, and finite.
TEST(Losses, HugeLogitsStayFinite) {
    Operands o(7, 70);
    o.logits.fill(Uniform(5, 1e4));
    o.teacher.fill(Uniform(6, 1e4));
    OwnedTensor loss(DType::f32, {7});
    OwnedTensor d_logits(DType::f32, {7, 70});
    const Values logits = values_of(o.logits);
    const Values teacher = values_of(o.teacher);
    kl_loss(loss, d_logits, o.logits, o.teacher, 1);
    for (std::int64_t t = 0; t < 7; ++t) {
        const double expected = divergence(row_of(teacher, t, 70), row_of(logits, t, 70));
        EXPECT_NEAR(values_of(loss)[static_cast<std::size_t>(t)], expected, 1e-2);
    }
    for (const double gradient : values_of(d_logits)) EXPECT_LE(std::abs(gradient), 1.001);
    cross_entropy_loss(loss, d_logits, o.logits, o.targets, 1);
    for (std::int64_t t = 0; t < 7; ++t) {
        const double expected = -log_softmax(row_of(logits, t, 70))[o.targets->as<std::uint32_t>()[t]];
        EXPECT_NEAR(values_of(loss)[static_cast<std::size_t>(t)], expected, 1e-2);
    }
    for (const double gradient : values_of(d_logits)) EXPECT_LE(std::abs(gradient), 1.001);
}

TEST(Losses, SameBitsForAnyNumberOfThreads) {
    expect_same_bits_for_any_threads([] {
        const Operands o(33, 301);
        OwnedTensor loss(DType::f32, {33});
        OwnedTensor d_logits(DType::bf16, {33, 301});
        OwnedTensor kl(DType::f32, {33});
        OwnedTensor d_kl(DType::f32, {33, 301});
        cross_entropy_loss(loss, d_logits, o.logits, o.targets, scale);
        kl_loss(kl, d_kl, o.logits, o.teacher, scale);
        return std::vector<OwnedTensor>{loss, d_logits, kl, d_kl};
    });
}

}  // namespace
}  // namespace pvtune::cpu
