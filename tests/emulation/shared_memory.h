#pragma once

#include "tests/emulation/scheduler.h"
#include "tests/emulation/static_shared.h"

#include <cstddef>

namespace pvtune::cuda::emulation {

/// The shared memory of a launch; what a block finds in it is NaN.
class SharedMemory {
public:
    explicit SharedMemory(std::size_t dynamic_bytes);
    ~SharedMemory();
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;

    /// Before a block.
    void refill();
    /// After a block; throws KernelFault if it wrote beyond the end, or the kernel has more than a device gives it.
    void check();

private:
    void find_used();

    std::byte* memory_;
    std::size_t bytes_;
    int blocks_ = 0;
    std::vector<SharedVariable> used_;  ///< by the first block: a program has the variables of many kernels
};

/// Whether [address, address + bytes) lies in the shared memory of the block that runs.
bool in_shared_memory(const void* address, std::size_t bytes);

/// The start of the dynamic shared memory.
inline void* dynamic_shared_memory() { return block.dynamic_memory; }

}  // namespace pvtune::cuda::emulation
