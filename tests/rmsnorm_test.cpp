#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

constexpr float epsilon = 1e-3F;

Values forward(const Values& in, const Values& weight) {
    const std::size_t width = weight.size();
    Values out(in.size());
    for (std::size_t t = 0; t < in.size() / width; ++t) {
        double squares = 0;
        for (std::size_t i = 0; i < width; ++i) squares += in[t * width + i] * in[t * width + i];
        const double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(epsilon));
        for (std::size_t i = 0; i < width; ++i) out[t * width + i] = in[t * width + i] * inverse * weight[i];
    }
    return out;
}

struct Operands {
    std::int64_t tokens, width;
    OwnedTensor in, weight, d_out, inverse_rms;
    Operands(DType dtype, std::int64_t tokens_, std::int64_t width_)
        : tokens(tokens_),
          width(width_),
          in(random_tensor(dtype, {tokens, width}, 1)),
          weight(random_tensor(DType::f32, {width}, 2)),
          d_out(random_tensor(dtype, {tokens, width}, 3)),
          inverse_rms(DType::f32, {tokens}) {}
};

TEST(RmsNorm, ForwardAndBackwardAgreeWithPlainLoops) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t tokens : {1, 7, 33}) {
            for (const std::int64_t width : {5, 30, 64, 70}) {
                Operands o(dtype, tokens, width);
                OwnedTensor out(dtype, {tokens, width});
                rmsnorm_forward(out, o.inverse_rms, o.in, o.weight, epsilon);
                const Values in = values_of(o.in);
                const Values weight = values_of(o.weight);
                const Values d_out = values_of(o.d_out);
                EXPECT_LT(relative_error(out, forward(in, weight)), tolerance_of(dtype)) << tokens << " x " << width;

                OwnedTensor d_in = random_tensor(dtype, {tokens, width}, 4);
                OwnedTensor d_weight = random_tensor(DType::f32, {width}, 5);
                Values expected_in = values_of(d_in);
                Values expected_weight = values_of(d_weight);
                rmsnorm_backward(d_in, d_weight, o.d_out, o.in, o.weight, o.inverse_rms);
                // One token's row at a time: rows do not see each other.
                for (std::int64_t t = 0; t < tokens; ++t) {
                    const auto row = [&](const Values& all) {
                        return Values(all.begin() + t * width, all.begin() + (t + 1) * width);
                    };
                    const Values d_row = row(d_out);
                    const Values step =
                        numeric_gradient(row(in), [&](const Values& x) { return dot(forward(x, weight), d_row); });
                    for (std::int64_t i = 0; i < width; ++i) {
                        expected_in[static_cast<std::size_t>(t * width + i)] += step[static_cast<std::size_t>(i)];
                    }
                }
                const Values step =
                    numeric_gradient(weight, [&](const Values& w) { return dot(forward(in, w), d_out); });
                for (std::size_t i = 0; i < step.size(); ++i) expected_weight[i] += step[i];
                EXPECT_LT(relative_error(d_in, expected_in), tolerance_of(dtype)) << tokens << " x " << width;
                // Operands are as given and sums are f32: no bf16 error here.
                EXPECT_LT(relative_error(d_weight, expected_weight), f32_tolerance) << tokens << " x " << width;
            }
        }
    }
}

TEST(RmsNorm, WeightGradientIsOptional) {
    Operands o(DType::f32, 7, 30);
    OwnedTensor with(DType::f32, {7, 30});
    OwnedTensor without(DType::f32, {7, 30});
    OwnedTensor d_weight(DType::f32, {30});
    OwnedTensor out(DType::f32, {7, 30});
    rmsnorm_forward(out, o.inverse_rms, o.in, o.weight, epsilon);
    rmsnorm_backward(with, d_weight, o.d_out, o.in, o.weight, o.inverse_rms);
    rmsnorm_backward(without, {}, o.d_out, o.in, o.weight, o.inverse_rms);
    EXPECT_TRUE(same_bits(with, without));
}

TEST(RmsNorm, SameBitsForAnyNumberOfThreads) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        expect_same_bits_for_any_threads([&] {
            Operands o(dtype, 133, 70);
            OwnedTensor out(dtype, {133, 70});
            OwnedTensor d_in(dtype, {133, 70});
            OwnedTensor d_weight(DType::f32, {70});
            rmsnorm_forward(out, o.inverse_rms, o.in, o.weight, epsilon);
            rmsnorm_backward(d_in, d_weight, o.d_out, o.in, o.weight, o.inverse_rms);
            return std::vector<OwnedTensor>{out, o.inverse_rms, d_in, d_weight};
        });
    }
}

}  // namespace
}  // namespace pvtune::cpu
