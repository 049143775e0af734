#include "tests/cuda/attention_cases.h"

namespace pvtune::cuda {
namespace {

/// A cache with rows beyond shape.length that must not be read: NaN.
struct DecodeCase {
    AttentionShape shape;
    DType dtype;
    OwnedTensor q, keys, values, out;

    DecodeCase(DType type, const AttentionShape& s) : shape(s), dtype(type) {
        const std::int64_t capacity = s.length + 3;
        q = random_tensor(dtype, {s.heads, s.head_dim}, 1, 3);
        keys = random_tensor(dtype, {capacity, s.kv_heads, s.head_dim}, 2);
        values = random_tensor(dtype, {capacity, s.kv_heads, s.head_dim}, 3);
        const std::int64_t row = s.kv_heads * s.head_dim;
        for (std::int64_t i = s.length * row; i < capacity * row; ++i) {
            keys.set(i, NAN);
            values.set(i, NAN);
        }
        out = OwnedTensor(dtype, {s.heads, s.head_dim});
        cpu::attention_decode(out, q, keys, values, shape);
    }
    OwnedTensor run() const {
        const DeviceTensor query(q);
        const DeviceTensor key_cache(keys);
        const DeviceTensor value_cache(values);
        const DeviceTensor result(dtype, {shape.heads, shape.head_dim});
        const DeviceWorkspace workspace(attention_decode_workspace(sizes_of(shape)));
        with_type(dtype, [&]<class T>(T) {
            attention_decode<T>(result.as<T>(), query.as<T>(), key_cache.as<T>(), value_cache.as<T>(), sizes_of(shape),
                                workspace.data(), nullptr);
        });
        return result.download();
    }
};

// Weights are f32 on both sides, in bf16 too.
void expect_agrees(const DecodeCase& c) {
    const double tolerance = c.dtype == DType::f32 ? 2 * f32_tolerance : bf16_tolerance;
    EXPECT_LT(relative_error(c.run(), values_of(c.out)), tolerance) << text_of(c.shape);
}

TEST(CudaAttentionDecode, AgreesWithTheCpu) {
    const std::vector<std::array<std::int64_t, 2>> heads = {{1, 1}, {3, 1}, {6, 2}, {9, 1}, {20, 2}};
    const std::vector<std::int64_t> head_dims = {2, 6, 10, 16, 64, 80, 96, 128, 200, 256};
    std::size_t turn = 0;
    for (const std::int64_t length : {1, 7, 64, 65, 130, 500}) {
        for (const std::int64_t window : {0, 1, 5, 64, 400}) {
            for (const DType dtype : {DType::f32, DType::bf16}) {
                const auto& [count, kv_count] = heads[turn % heads.size()];
                expect_agrees({dtype,
                               {1, length, count, kv_count, head_dims[turn * 7 / 5 % head_dims.size()], window,
                                turn % 3 == 2 ? 1.5F : 0}});
                ++turn;
            }
        }
    }
}

TEST(CudaAttentionDecode, LongCachesAgreeWithTheCpu) {
    // Parts of more than the shortest length, and of the longest.
    for (const DType dtype : {DType::f32, DType::bf16}) {
        expect_agrees({dtype, {1, 2049, 8, 8, 64, 0}});
        expect_agrees({dtype, {1, 3001, 32, 4, 16, 0}});
        expect_agrees({dtype, {1, 1700, 16, 16, 6, 1500}});
        expect_agrees({dtype, {1, 1500, 8, 4, 256, 1200, 50}});
    }
}

TEST(CudaAttentionDecode, BitsDoNotDependOnTheOrderOfThreads) {
    for (const DecodeCase& c :
         {DecodeCase{DType::f32, {1, 131, 6, 2, 10, 0}}, DecodeCase{DType::bf16, {1, 300, 8, 2, 128, 0}}}) {
        const OwnedTensor first = c.run();
        for_each_schedule([&] { EXPECT_TRUE(same_bits(c.run(), first)) << text_of(c.shape); });
    }
}

TEST(CudaAttentionDecode, AWorkspaceForTheLongestCacheServesShorterOnes) {
    for (std::int64_t kv_heads = 1; kv_heads <= 32; kv_heads *= 2) {
        std::size_t before = 0;
        for (std::int64_t length = 1; length < 100000; length += 1 + length / 7) {
            const std::size_t bytes = attention_decode_workspace({1, length, 32, kv_heads, 64, 0});
            EXPECT_GE(bytes, before) << length;
            before = bytes;
        }
    }
}

TEST(CudaAttentionDecode, RefusesShapesItDoesNotCover) {
    const auto decode = [](const AttentionSizes& sizes) {
        attention_decode<bf16>(nullptr, nullptr, nullptr, nullptr, sizes, nullptr, nullptr);
    };
    EXPECT_THROW(decode({2, 4, 2, 2, 64, 0}), std::invalid_argument);
    EXPECT_THROW(decode({1, 0, 2, 2, 64, 0}), std::invalid_argument);
    EXPECT_THROW(decode({1, 4, 2, 2, 63, 0}), std::invalid_argument);
}

}  // namespace
}  // namespace pvtune::cuda
