#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

#include <numbers>

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

double silu(double x) { return x / (1 + std::exp(-x)); }

double gelu_tanh(double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

struct Gated {
    double (*activation)(double);
    void (*forward)(Tensor, Tensor, Tensor);
    void (*backward)(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor);
};

constexpr Gated both[] = {{silu, swiglu_forward, swiglu_backward}, {gelu_tanh, geglu_forward, geglu_backward}};

struct Operands {
    OwnedTensor gate, up, d_out;
    Operands(DType dtype, std::int64_t tokens, std::int64_t width)
        : gate(random_tensor(dtype, {tokens, width}, 1, 6)),
          up(random_tensor(dtype, {tokens, width}, 2)),
          d_out(random_tensor(dtype, {tokens, width}, 3)) {}
};

void expect_plain_loops(const Gated& gated, DType dtype, std::int64_t tokens, std::int64_t width) {
    Operands o(dtype, tokens, width);
    OwnedTensor out(dtype, {tokens, width});
    gated.forward(out, o.gate, o.up);
    const Values gate = values_of(o.gate);
    const Values up = values_of(o.up);
    const Values d_out = values_of(o.d_out);
    Values expected(gate.size());
    Values expected_gate(gate.size());
    Values expected_up(gate.size());
    constexpr double step = 1e-5;
    for (std::size_t i = 0; i < gate.size(); ++i) {
        const double slope = (gated.activation(gate[i] + step) - gated.activation(gate[i] - step)) / (2 * step);
        expected[i] = gated.activation(gate[i]) * up[i];
        expected_gate[i] = d_out[i] * up[i] * slope;
        expected_up[i] = d_out[i] * gated.activation(gate[i]);
    }
    EXPECT_LT(relative_error(out, expected), tolerance_of(dtype));

    // In place, as the block's backward pass calls it.
    gated.backward(o.gate, o.up, o.d_out, o.d_out, o.gate, o.up);
    EXPECT_TRUE(same_bits(o.d_out, out));
    EXPECT_LT(relative_error(o.gate, expected_gate), tolerance_of(dtype));
    EXPECT_LT(relative_error(o.up, expected_up), tolerance_of(dtype));
}

TEST(Swiglu, ForwardAndBackwardAgreeWithPlainLoops) {
    for (const Gated& gated : both) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
            for (const std::int64_t tokens : {1, 7, 33}) {
                for (const std::int64_t width : {5, 30, 64, 70}) expect_plain_loops(gated, dtype, tokens, width);
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
    for (const Gated& gated : both) {
        gated.forward(out, gate, up);
        EXPECT_LT(relative_error(out, {0, 0, 0, 88, 100, 1e4}), 1e-7);
        OwnedTensor d_gate(DType::f32, {1, 6});
        OwnedTensor d_up(DType::f32, {1, 6});
        gated.backward(d_gate, d_up, out, up, gate, up);
        EXPECT_LT(relative_error(d_gate, {0, 0, 0, 1, 1, 1}), 1e-6);
        EXPECT_LT(relative_error(d_up, {0, 0, 0, 88, 100, 1e4}), 1e-7);
    }
}

TEST(Swiglu, SameBitsForAnyNumberOfThreads) {
    for (const Gated& gated : both) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
            expect_same_bits_for_any_threads([&] {
                Operands o(dtype, 33, 71);
                OwnedTensor out(dtype, {33, 71});
                gated.forward(out, o.gate, o.up);
                gated.backward(o.gate, o.up, o.d_out, o.d_out, o.gate, o.up);
                return std::vector<OwnedTensor>{out, o.gate, o.up};
            });
        }
    }
}

}  // namespace
}  // namespace pvtune::cpu
