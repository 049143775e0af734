#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

template <class T>
void expect_forward_agrees(std::int64_t count, std::int64_t width) {
    const OwnedTensor table = random_tensor(dtype_of<T>, {37, width}, 1);
    const OwnedTensor tokens = random_ids(count, 37, 2);
    OwnedTensor expected(dtype_of<T>, {count, width});
    cpu::embedding_forward(expected, table, tokens);
    const DeviceTensor hidden(dtype_of<T>, {count, width});
    embedding_forward(hidden.as<T>(), DeviceTensor(table).as<T>(), DeviceTensor(tokens).as<std::uint32_t>(), count,
                      width, nullptr);
    EXPECT_TRUE(same_bits(hidden.download(), expected)) << count << " x " << width;
}

TEST(CudaEmbedding, ForwardCopiesRows) {
    for_each_schedule([] {
        for (const std::int64_t count : {1, 9, 33}) {
            for (const std::int64_t width : {1, 30, 64, 576, 2056}) {
                expect_forward_agrees<float>(count, width);
                expect_forward_agrees<bf16>(count, width);
            }
        }
    });
}

// Every row adds up in the order of t from what was there: the same bits as on the CPU.
template <class T>
void expect_backward_agrees(const OwnedTensor& tokens, std::int64_t width, std::int64_t vocabulary) {
    const std::int64_t count = tokens->dim(0);
    const OwnedTensor d_hidden = random_tensor(dtype_of<T>, {count, width}, 1);
    OwnedTensor expected = random_tensor(DType::f32, {vocabulary, width}, 2);
    const DeviceTensor d_table(expected);
    cpu::embedding_backward(expected, d_hidden, tokens);
    const DeviceWorkspace workspace(embedding_backward_workspace(count, vocabulary));
    embedding_backward(d_table.as<float>(), DeviceTensor(d_hidden).as<T>(), DeviceTensor(tokens).as<std::uint32_t>(),
                       count, width, vocabulary, workspace.data(), nullptr);
    EXPECT_TRUE(same_bits(d_table.download(), expected)) << count << " x " << width;
}

TEST(CudaEmbedding, BackwardAddsInTheOrderOfTokens) {
    for_each_schedule([] {
        for (const std::int64_t count : {1, 9, 70}) {
            for (const std::int64_t width : {1, 30, 64, 264}) {
                expect_backward_agrees<float>(random_ids(count, 11, 3), width, 11);
                expect_backward_agrees<bf16>(random_ids(count, 11, 3), width, 11);
            }
        }
    });
}

TEST(CudaEmbedding, BackwardOfMoreTokensThanOneChunkSorts) {
    for (const std::int64_t count : {1024, 1025, 2500}) {
        expect_backward_agrees<float>(random_ids(count, 700, 4), 5, 700);
    }
    for_each_schedule([] { expect_backward_agrees<bf16>(random_ids(1100, 700, 5), 8, 700); });
}

// One token hundreds of times among others, and nothing else but one token, as often as whole warps have lanes.
TEST(CudaEmbedding, BackwardOfRepeatedTokens) {
    for_each_schedule([] {
        OwnedTensor tokens = random_ids(1100, 50, 5);
        for (std::int64_t t = 0; t < 1100; t += t % 5 + 1) tokens.set(t, 17);
        expect_backward_agrees<bf16>(tokens, 16, 50);
        const OwnedTensor zeros(DType::u32, {96});
        expect_backward_agrees<float>(zeros, 3, 1);
    });
}

TEST(CudaEmbedding, NothingToDoIsNoError) {
    embedding_forward<float>(nullptr, nullptr, nullptr, 0, 8, nullptr);
    embedding_backward<float>(nullptr, nullptr, nullptr, 0, 8, 3, nullptr, nullptr);
    finish();
}

}  // namespace
}  // namespace pvtune::cuda
