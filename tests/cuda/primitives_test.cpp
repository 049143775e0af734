// Sorting and scanning as kernels' launchers use them: on a device CUB, on the emulated device its twin.
#include "tests/cuda/device_tensors.h"
#include "tests/cuda/primitive_calls.h"

#include <numeric>

namespace pvtune::cuda {
namespace {

using Words = std::vector<std::uint32_t>;

Words words_of(Tensor tensor) {
    const auto* first = tensor.as<std::uint32_t>();
    return {first, first + tensor.elements()};
}

class CudaSort : public ::testing::TestWithParam<bool> {};

TEST_P(CudaSort, KeepsEqualKeysInOrder) {
    const bool descending = GetParam();
    for (const std::int64_t count : {1, 31, 1000, 20001}) {
        // Few different keys, some with the highest bit set.
        OwnedTensor keys = random_ids(count, 50, 1);
        for (std::int64_t i = 0; i < count; ++i) keys->as<std::uint32_t>()[i] *= 0x05000001U;
        OwnedTensor values(DType::u32, {count});
        values.fill([i = 0]() mutable { return i++; });

        Words order(static_cast<std::size_t>(count));
        std::iota(order.begin(), order.end(), 0U);
        const Words unsorted = words_of(keys);
        std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
            return descending ? unsorted[a] > unsorted[b] : unsorted[a] < unsorted[b];
        });

        const DeviceTensor keys_in(keys);
        const DeviceTensor values_in(values);
        const DeviceTensor keys_out(DType::u32, {count});
        const DeviceTensor values_out(DType::u32, {count});
        const DeviceWorkspace workspace(primitives::sort_workspace(count, descending));
        primitives::sort(keys_in.as<std::uint32_t>(), keys_out.as<std::uint32_t>(), values_in.as<std::uint32_t>(),
                         values_out.as<std::uint32_t>(), count, descending, workspace.data(), workspace.bytes(),
                         nullptr);
        EXPECT_EQ(words_of(values_out.download()), order) << count;
        const Words sorted = words_of(keys_out.download());
        for (std::size_t i = 0; i < order.size(); ++i) ASSERT_EQ(sorted[i], unsorted[order[i]]) << i << " of " << count;
        EXPECT_TRUE(same_bits(keys_in.download(), keys));
    }
}

INSTANTIATE_TEST_SUITE_P(BothWays, CudaSort, ::testing::Bool());

TEST(CudaExclusiveSum, AddsWhatIsBeforeInPlaceToo) {
    for (const std::int64_t count : {1, 33, 20001}) {
        const OwnedTensor in = random_ids(count, 1000, 2);
        const Words terms = words_of(in);
        Words expected(terms.size());
        std::exclusive_scan(terms.begin(), terms.end(), expected.begin(), 0U);
        const DeviceTensor from(in);
        const DeviceTensor to(DType::u32, {count});
        const DeviceWorkspace workspace(primitives::sum_workspace(count));
        primitives::sum(from.as<std::uint32_t>(), to.as<std::uint32_t>(), count, workspace.data(), workspace.bytes(),
                        nullptr);
        EXPECT_EQ(words_of(to.download()), expected);
        primitives::sum(from.as<std::uint32_t>(), from.as<std::uint32_t>(), count, workspace.data(), workspace.bytes(),
                        nullptr);
        EXPECT_EQ(words_of(from.download()), expected) << "in place";
    }
}

}  // namespace
}  // namespace pvtune::cuda
