#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

double silu(double x) { return x / (1 + std::exp(-x)); }

struct Operands {
    OwnedTensor gate, up, d_out;
    Operands(DType dtype, std::int64_t tokens, std::int64_t width)
        : gate(random_tensor(dtype, {tokens, width}, 1, 6)),
          up(random_tensor(dtype, {tokens, width}, 2)),
          d_out(random_tensor(dtype, {tokens, width}, 3)) {}
};

TEST(Swiglu, ForwardAndBackwardAgreeWithPlainLoops) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t tokens : {1, 7, 33}) {
            for (const std::int64_t width : {5, 30, 64, 70}) {
                Operands o(dtype, tokens, width);
                OwnedTensor out(dtype, {tokens, width});
                swiglu_forward(out, o.gate, o.up);
                const Values gate = values_of(o.gate);
                const Values up = values_of(o.up);
                const Values d_out = values_of(o.d_out);
                Values expected(gate.size());
                Values expected_gate(gate.size());
                Values expected_up(gate.size());
                constexpr double step = 1e-5;
                for (std::size_t i = 0; i < gate.size(); ++i) {
                    expected[i] = silu(gate[i]) * up[i];
                    expected_gate[i] = d_out[i] * up[i] * (silu(gate[i] + step) - silu(gate[i] - step)) / (2 * step);
                    expected_up[i] = d_out[i] * silu(gate[i]);
                }
                EXPECT_LT(relative_error(out, expected), tolerance_of(dtype));

                // In place, as the block's backward pass calls it.
                swiglu_backward(o.gate, o.up, o.d_out, o.d_out, o.gate, o.up);
                EXPECT_TRUE(same_bits(o.d_out, out));
                EXPECT_LT(relative_error(o.gate, expected_gate), tolerance_of(dtype));
                EXPECT_LT(relative_error(o.up, expected_up), tolerance_of(dtype));
            }
        }
    }
}

TEST(Swiglu, LargeGatesStayFinite) {
    OwnedTensor gate(DType::f32, {1, 6});
    OwnedTensor up(DType::f32, {1, 6});
    OwnedTensor out(DType::f32, {1, 6});
    const Values gates = {-1e4, -1e2, -88, 88, 1e2, 1e4};
    for (std::int64_t i = 0; i < 6; ++i) {
        gate.set(i, gates[static_cast<std::size_t>(i)]);
        up.set(i, 1);
    }
    swiglu_forward(out, gate, up);
    EXPECT_LT(relative_error(out, {0, 0, 0, 88, 100, 1e4}), 1e-7);
    OwnedTensor d_gate(DType::f32, {1, 6});
    OwnedTensor d_up(DType::f32, {1, 6});
    swiglu_backward(d_gate, d_up, out, up, gate, up);
    EXPECT_LT(relative_error(d_gate, {0, 0, 0, 1, 1, 1}), 1e-6);
    EXPECT_LT(relative_error(d_up, {0, 0, 0, 88, 100, 1e4}), 1e-7);
}

TEST(Swiglu, SameBitsForAnyNumberOfThreads) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        expect_same_bits_for_any_threads([&] {
            Operands o(dtype, 33, 71);
            OwnedTensor out(dtype, {33, 71});
            swiglu_forward(out, o.gate, o.up);
            swiglu_backward(o.gate, o.up, o.d_out, o.d_out, o.gate, o.up);
            return std::vector<OwnedTensor>{out, o.gate, o.up};
        });
    }
}

}  // namespace
}  // namespace pvtune::cpu
