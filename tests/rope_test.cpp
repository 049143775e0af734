#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

struct Operands {
    std::int64_t length, heads, head_dim, half;
    OwnedTensor values, cosines, sines;
    Operands(DType dtype, std::int64_t sequences, std::int64_t length_, std::int64_t heads_, std::int64_t head_dim_,
             std::int64_t half_)
        : length(length_),
          heads(heads_),
          head_dim(head_dim_),
          half(half_),
          values(random_tensor(dtype, {sequences * length, heads, head_dim}, 1)),
          cosines(DType::f32, {length, half}),
          sines(DType::f32, {length, half}) {
        Uniform angle(2, 3.1);
        for (std::int64_t i = 0; i < length * half; ++i) {
            const double here = angle();
            cosines.set(i, std::cos(here));
            sines.set(i, std::sin(here));
        }
    }

    Values rotated(const Values& in) const {
        const Values cosine = values_of(cosines);
        const Values sine = values_of(sines);
        Values out = in;  // what is behind 2 * half stays
        for (std::size_t at = 0; at < in.size(); at += static_cast<std::size_t>(head_dim)) {
            const std::int64_t token = static_cast<std::int64_t>(at) / head_dim / heads;
            for (std::int64_t i = 0; i < half; ++i) {
                const auto angle = static_cast<std::size_t>(token % length * half + i);
                const std::size_t low = at + static_cast<std::size_t>(i);
                const std::size_t high = low + static_cast<std::size_t>(half);
                out[low] = in[low] * cosine[angle] - in[high] * sine[angle];
                out[high] = in[high] * cosine[angle] + in[low] * sine[angle];
            }
        }
        return out;
    }
};

TEST(Rope, ForwardAndBackwardAgreeWithPlainLoops) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t sequences : {1, 3}) {
            for (const std::int64_t length : {1, 7}) {
                for (const auto& [heads, head_dim, half] : std::vector<std::array<std::int64_t, 3>>{
                         {1, 2, 1}, {3, 10, 5}, {2, 70, 35}, {3, 10, 3}, {2, 70, 32}}) {
                    Operands o(dtype, sequences, length, heads, head_dim, half);
                    const Values in = values_of(o.values);
                    OwnedTensor out = o.values;
                    rope_forward(out, o.cosines, o.sines);
                    EXPECT_LT(relative_error(out, o.rotated(in)), tolerance_of(dtype));

                    OwnedTensor gradient = random_tensor(dtype, {sequences * length, heads, head_dim}, 3);
                    const Values d_out = values_of(gradient);
                    rope_backward(gradient, o.cosines, o.sines);
                    const Values expected =
                        numeric_gradient(in, [&](const Values& x) { return dot(o.rotated(x), d_out); });
                    EXPECT_LT(relative_error(gradient, expected), tolerance_of(dtype));
                }
            }
        }
    }
}

TEST(Rope, SameBitsForAnyNumberOfThreads) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        expect_same_bits_for_any_threads([&] {
            Operands o(dtype, 3, 33, 3, 70, 33);
            OwnedTensor back = o.values;
            rope_forward(o.values, o.cosines, o.sines);
            rope_backward(back, o.cosines, o.sines);
            return std::vector<OwnedTensor>{o.values, back};
        });
    }
}

}  // namespace
}  // namespace pvtune::cpu
