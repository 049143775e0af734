#pragma once

// The emulated side of cuda/primitives.cuh. As strict as a device: the workspace must be device memory of the size that
// was asked for, and its content is lost.

#include "cuda/error.h"
#include "tests/emulation/cuda_runtime_api.h"
#include "tests/emulation/device_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace pvtune::cuda::emulation {

/// Some, never none: callers must not take null.
inline constexpr std::size_t primitive_workspace = 256;

inline void use_workspace(void* workspace, std::size_t bytes, std::size_t wanted, const char* asked) {
    if (bytes < wanted || workspace == nullptr || !in_device_memory(workspace, bytes)) {
        throw CudaError(asked, "the workspace is too small or no device memory", std::source_location::current());
    }
    std::memset(workspace, 0xff, wanted);
}

template <class T>
void expect_device_array(const T* array, std::int64_t count, const char* asked) {
    if (count > 0 && !in_device_memory(array, static_cast<std::size_t>(count) * sizeof(T))) {
        throw CudaError(asked, "an array that is no device memory", std::source_location::current());
    }
}

template <class Key, class Value>
std::size_t sort_pairs_descending_workspace(std::int64_t) {
    return primitive_workspace;
}
template <class Key, class Value>
void sort_pairs_descending(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
                           std::int64_t count, void* workspace, std::size_t workspace_bytes, cudaStream_t) {
    const DeviceAccess access;
    use_workspace(workspace, workspace_bytes, primitive_workspace, "a sort");
    expect_device_array(keys_in, count, "a sort");
    expect_device_array(keys_out, count, "a sort");
    expect_device_array(values_in, count, "a sort");
    expect_device_array(values_out, count, "a sort");
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return keys_in[a] > keys_in[b]; });
    for (const std::int64_t from : order) {
        *keys_out++ = keys_in[from];
        *values_out++ = values_in[from];
    }
}

}  // namespace pvtune::cuda::emulation
