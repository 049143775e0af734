#pragma once

// Sorting whole arrays on the device: CUB under nvcc, plain loops on the emulated device, with the same
// results. Only .cu files may include this. `workspace` holds at least the bytes of the function next to it.

#include "cuda/device.cuh"

#ifdef __CUDACC__
#include <cub/device/device_radix_sort.cuh>
#else
#include "tests/emulation/primitives.h"
#endif

namespace pvtune::cuda {

#ifdef __CUDACC__

template <class Key, class Value>
std::size_t sort_pairs_descending_workspace(std::int64_t count) {
    std::size_t bytes = 0;
    check(cub::DeviceRadixSort::SortPairsDescending(nullptr, bytes, static_cast<const Key*>(nullptr),
                                                    static_cast<Key*>(nullptr), static_cast<const Value*>(nullptr),
                                                    static_cast<Value*>(nullptr), count),
          "the size of a sort");
    return bytes;
}

/// Sorts the pairs (key, value) by key, largest first; equal keys stay in order. Outputs are not the inputs' buffers.
template <class Key, class Value>
void sort_pairs_descending(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
                           std::int64_t count, void* workspace, std::size_t workspace_bytes, cudaStream_t stream) {
    constexpr int bits = 8 * sizeof(Key);
    check(cub::DeviceRadixSort::SortPairsDescending(workspace, workspace_bytes, keys_in, keys_out, values_in,
                                                    values_out, count, 0, bits, stream),
          "a sort");
}

#else

using emulation::sort_pairs_descending;
using emulation::sort_pairs_descending_workspace;

#endif

}  // namespace pvtune::cuda
