#pragma once

// The registry of what cudaMalloc gave out.

#include <cstddef>

namespace pvtune::cuda::emulation {

/// Whether [address, address + bytes) lies in one allocation.
bool in_device_memory(const void* address, std::size_t bytes);

/// The allocation that holds the address; empty if none does.
struct Extent {
    const std::byte* first = nullptr;
    const std::byte* last = nullptr;  ///< past the end
    bool holds(const void* address) const { return address >= first && address < last; }
};
Extent allocation_of(const void* address);

/// Throws KernelFault if the bytes around an allocation changed since it was made. (Where the address sanitizer runs,
/// its own zones stand there instead.)
void check_device_guards();

/// While one of these lives, host code may touch device memory: a kernel runs, or a copy.
class DeviceAccess {
public:
    DeviceAccess();
    ~DeviceAccess();
    DeviceAccess(const DeviceAccess&) = delete;
    DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace pvtune::cuda::emulation
