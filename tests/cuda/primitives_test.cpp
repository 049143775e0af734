// Sorting as kernels' launchers use them: on a device CUB, on the emulated device its twin.
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

TEST(CudaSort, KeepsEqualKeysInOrder) {
    for (const std::int64_t count : {1, 31, 1000, 20001}) {
        // Few different keys, some with the highest bit set.
        OwnedTensor keys = random_ids(count, 50, 1);
        for (std::int64_t i = 0; i < count; ++i) keys->as<std::uint32_t>()[i] *= 0x05000001U;
        OwnedTensor values(DType::u32, {count});
        values.fill([i = 0]() mutable { return i++; });

        Words order(static_cast<std::size_t>(count));
        std::iota(order.begin(), order.end(), 0U);
        const Words unsorted = words_of(keys);
        std::stable_sort(order.begin(), order.end(),
                         [&](std::uint32_t a, std::uint32_t b) { return unsorted[a] > unsorted[b]; });

        const DeviceTensor keys_in(keys);
        const DeviceTensor values_in(values);
        const DeviceTensor keys_out(DType::u32, {count});
        const DeviceTensor values_out(DType::u32, {count});
        const DeviceWorkspace workspace(primitives::sort_workspace(count));
        primitives::sort(keys_in.as<std::uint32_t>(), keys_out.as<std::uint32_t>(), values_in.as<std::uint32_t>(),
                         values_out.as<std::uint32_t>(), count, workspace.data(), workspace.bytes(), nullptr);
        EXPECT_EQ(words_of(values_out.download()), order) << count;
        const Words sorted = words_of(keys_out.download());
        for (std::size_t i = 0; i < order.size(); ++i) ASSERT_EQ(sorted[i], unsorted[order[i]]) << i << " of " << count;
        EXPECT_TRUE(same_bits(keys_in.download(), keys));
    }
}

}  // namespace
}  // namespace pvtune::cuda
