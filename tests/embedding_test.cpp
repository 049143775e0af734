#include "host/backend/cpu/cpu_ops.h"
#include "tests/tensors.h"

namespace pvtune::cpu {
namespace {

using namespace pvtune::testing;

TEST(Embedding, ForwardCopiesRowsAndBackwardAddsThem) {
    constexpr std::int64_t vocabulary = 11;  // fewer than tokens: rows repeat
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const std::int64_t tokens : {1, 7, 33}) {
            for (const std::int64_t width : {5, 30, 64, 70, 130}) {
                const OwnedTensor table = random_tensor(dtype, {vocabulary, width}, 1);
                const OwnedTensor ids = random_ids(tokens, vocabulary, 2);
                OwnedTensor hidden(dtype, {tokens, width});
                embedding_forward(hidden, table, ids);
                const OwnedTensor d_hidden = random_tensor(dtype, {tokens, width}, 3);
                OwnedTensor d_table = random_tensor(DType::f32, {vocabulary, width}, 4);
                Values expected = values_of(d_table);
                embedding_backward(d_table, d_hidden, ids);
                const Values rows = values_of(table);
                const Values steps = values_of(d_hidden);
                Values copied(steps.size());
                for (std::int64_t t = 0; t < tokens; ++t) {
                    for (std::int64_t i = 0; i < width; ++i) {
                        const auto from = static_cast<std::size_t>(ids->as<std::uint32_t>()[t] * width + i);
                        const auto to = static_cast<std::size_t>(t * width + i);
                        copied[to] = rows[from];
                        expected[from] += steps[to];
                    }
                }
                EXPECT_EQ(values_of(hidden), copied);
                EXPECT_LT(relative_error(d_table, expected), f32_tolerance);
            }
        }
    }
}

TEST(Embedding, SameBitsForAnyNumberOfThreads) {
    expect_same_bits_for_any_threads([] {
        OwnedTensor d_table(DType::f32, {11, 301});
        embedding_backward(d_table, random_tensor(DType::bf16, {70, 301}, 1), random_ids(70, 11, 2));
        return std::vector<OwnedTensor>{d_table};
    });
}

}  // namespace
}  // namespace pvtune::cpu
