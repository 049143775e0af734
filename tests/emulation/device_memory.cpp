// Device memory of the emulated runtime: fresh memory is all ones, which is NaN as f32, bf16 and f64 and an index far
// out of range.
#include "tests/emulation/device_memory.h"
#include "tests/emulation/circumstances.h"
#include "tests/emulation/cuda_runtime_api.h"
#include "tests/emulation/fault.h"
#include "tests/emulation/last_error.h"
#include "tests/emulation/sanitizer.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <string>
#include <vector>

namespace pvtune::cuda::emulation {
namespace {

constexpr std::size_t alignment = 256;
constexpr std::size_t guard_bytes = address_sanitizer ? 0 : alignment;
constexpr unsigned char guard_value = 0xa5;

/// Sizes by address.
std::map<const std::byte*, std::size_t>& allocations() {
    static auto* all = new std::map<const std::byte*, std::size_t>;  // outlives static destructors of tests
    return *all;
}

std::size_t allocated_bytes = 0;
int accesses = 0;

bool guard_is_whole(const std::byte* guard) {
    static const std::vector<unsigned char> whole(guard_bytes, guard_value);
    return std::memcmp(guard, whole.data(), guard_bytes) == 0;
}

std::byte* allocate(std::size_t bytes) {
    if (allocated_bytes + bytes > circumstances().memory_bytes) return nullptr;
    auto* memory =
        static_cast<std::byte*>(::operator new (bytes + 2 * guard_bytes, std::align_val_t{alignment}, std::nothrow));
    if (memory == nullptr) return nullptr;
    std::memset(memory, guard_value, guard_bytes);
    std::memset(memory + guard_bytes, 0xff, bytes);
    std::memset(memory + guard_bytes + bytes, guard_value, guard_bytes);
    memory += guard_bytes;
    allocations().emplace(memory, bytes);
    allocated_bytes += bytes;
    if (accesses == 0) poison(memory, bytes);
    return memory;
}

bool release(void* address) {
    auto* memory = static_cast<std::byte*>(address);
    const auto entry = allocations().find(memory);
    if (entry == allocations().end()) return false;
    unpoison(memory, entry->second);
    allocated_bytes -= entry->second;
    allocations().erase(entry);
    ::operator delete (memory - guard_bytes, std::align_val_t{alignment});
    return true;
}

/// Whether the two ends of a copy are where `kind` says that they are.
bool kind_fits(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (kind == cudaMemcpyDefault) return true;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return in_device_memory(to, bytes) == to_device && in_device_memory(from, bytes) == from_device;
}

}  // namespace

Extent allocation_of(const void* address) {
    const auto* memory = static_cast<const std::byte*>(address);
    auto entry = allocations().upper_bound(memory);
    if (entry == allocations().begin()) return {};
    --entry;
    const Extent extent{entry->first, entry->first + entry->second};
    return extent.holds(address) ? extent : Extent{};
}

bool in_device_memory(const void* address, std::size_t bytes) {
    const Extent extent = allocation_of(address);
    return extent.holds(address) && static_cast<const std::byte*>(address) + bytes <= extent.last;
}

void check_device_guards() {
    for (const auto& [memory, bytes] : allocations()) {
        const bool before = guard_is_whole(memory - guard_bytes);
        if (before && guard_is_whole(memory + bytes)) continue;
        throw KernelFault("a write " + std::string(before ? "beyond the end" : "before the start") +
                          " of a device allocation of " + std::to_string(bytes) + " bytes");
    }
}

DeviceAccess::DeviceAccess() {
    if (accesses++ > 0) return;
    for (const auto& [memory, bytes] : allocations()) unpoison(memory, bytes);
}

DeviceAccess::~DeviceAccess() {
    if (--accesses > 0) return;
    for (const auto& [memory, bytes] : allocations()) poison(memory, bytes);
}

}  // namespace pvtune::cuda::emulation

using namespace pvtune::cuda::emulation;

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    *memory = nullptr;
    if (bytes == 0) return cudaSuccess;
    *memory = allocate(bytes);
    return kept(*memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* memory) {
    return kept(memory == nullptr || release(memory) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) { return cudaFree(memory); }
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
    *memory = std::malloc(bytes);
    return kept(*memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) { return cudaMallocHost(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) {
    std::free(memory);
    return cudaSuccess;
}
cudaError_t cudaHostRegister(void*, std::size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
    *total_bytes = circumstances().memory_bytes;
    *free_bytes = *total_bytes - allocated_bytes;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return cudaSuccess;
    if (!kind_fits(to, from, bytes, kind)) return kept(cudaErrorInvalidValue);
    const DeviceAccess access;
    std::memmove(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
    // A null pointer with 0 bytes too: no document says that a device takes it.
    if (memory == nullptr) return kept(cudaErrorInvalidValue);
    if (bytes == 0) return cudaSuccess;
    if (!in_device_memory(memory, bytes)) return kept(cudaErrorInvalidValue);
    const DeviceAccess access;
    std::memset(memory, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
    return cudaMemset(memory, value, bytes);
}
