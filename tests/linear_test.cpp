#include "host/backend/cpu/bf16_blocks.h"
#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

struct Operands {
    std::size_t tokens, rows, columns;
    OwnedTensor in, weight, bias, d_out;
    Operands(DType dtype, std::int64_t tokens_, std::int64_t rows_, std::int64_t columns_)
        : tokens(static_cast<std::size_t>(tokens_)),
          rows(static_cast<std::size_t>(rows_)),
          columns(static_cast<std::size_t>(columns_)),
          in(random_tensor(dtype, {tokens_, columns_}, 1)),
          weight(random_tensor(dtype, {rows_, columns_}, 2)),
          bias(random_tensor(DType::f32, {rows_}, 3)),
          d_out(random_tensor(dtype, {tokens_, rows_}, 4)) {}

    Values forward(const Values& x, const Values& w, const Values& b) const {
        Values out(tokens * rows);
        for (std::size_t t = 0; t < tokens; ++t) {
            for (std::size_t o = 0; o < rows; ++o) {
                double sum = b[o];
                for (std::size_t i = 0; i < columns; ++i) sum += x[t * columns + i] * w[o * columns + i];
                out[t * rows + o] = sum;
            }
        }
        return out;
    }
};

void check(DType dtype, std::int64_t tokens, std::int64_t rows, std::int64_t columns) {
    const Operands o(dtype, tokens, rows, columns);
    const Values in = values_of(o.in);
    const Values weight = values_of(o.weight);
    const Values bias = values_of(o.bias);
    const Values d_out = values_of(o.d_out);
    OwnedTensor out(dtype, {tokens, rows});
    linear_forward(out, o.in, o.weight, o.bias);
    EXPECT_LT(relative_error(out, o.forward(in, weight, bias)), tolerance_of(dtype));
    OwnedTensor wide(DType::f32, {tokens, rows});
    linear_forward(wide, o.in, o.weight, {});
    EXPECT_LT(relative_error(wide, o.forward(in, weight, Values(bias.size()))), f32_tolerance);

    // Linear in each operand: differences with a step of 1 are exact.
    const Values d_in = numeric_gradient(
        in, [&](const Values& x) { return dot(o.forward(x, weight, bias), d_out); }, 1);
    const Values d_weight = numeric_gradient(
        weight, [&](const Values& w) { return dot(o.forward(in, w, bias), d_out); }, 1);
    for (const bool accumulate : {false, true}) {
        OwnedTensor to_in = random_tensor(dtype, {tokens, columns}, 5);
        OwnedTensor to_weight = random_tensor(DType::f32, {rows, columns}, 6);
        Values expected_in = values_of(to_in);
        Values expected_weight = values_of(to_weight);
        for (std::size_t i = 0; i < d_in.size(); ++i) expected_in[i] = d_in[i] + (accumulate ? expected_in[i] : 0);
        for (std::size_t i = 0; i < d_weight.size(); ++i) {
            expected_weight[i] = d_weight[i] + (accumulate ? expected_weight[i] : 0);
        }
        linear_backward_input(to_in, o.d_out, o.weight, accumulate);
        linear_backward_weight(to_weight, o.d_out, o.in, accumulate);
        EXPECT_LT(relative_error(to_in, expected_in), tolerance_of(dtype));
        EXPECT_LT(relative_error(to_weight, expected_weight), f32_tolerance);
    }
}

TEST(Linear, ForwardAndBackwardAgreeWithPlainLoops) {
    for (const BlockUnit most : {BlockUnit::none, BlockUnit::dots, BlockUnit::tiles}) {
        const LimitBlockUnit limited(most);
        for (const DType dtype : {DType::f32, DType::bf16}) {
            for (const auto& [tokens, rows, columns] :
                 std::vector<std::array<std::int64_t, 3>>{{1, 5, 7}, {7, 30, 13}, {3, 12, 33}, {33, 9, 10}}) {
                check(dtype, tokens, rows, columns);
            }
        }
    }
}

}  // namespace
}  // namespace pvtune::cpu
