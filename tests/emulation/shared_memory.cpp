#include "tests/emulation/shared_memory.h"
#include "cuda/device_limits.h"
#include "tests/emulation/device_limits.h"
#include "tests/emulation/sanitizer.h"

#include <algorithm>
#include <new>

namespace pvtune::cuda::emulation {
namespace {

constexpr std::align_val_t alignment{128};
constexpr std::size_t guard_bytes = address_sanitizer ? 0 : 256;
constexpr auto guard_value = static_cast<std::byte>(0xa5);
constexpr auto fresh = static_cast<std::byte>(0xff);

}  // namespace

SharedMemory::SharedMemory(std::size_t dynamic_bytes)
    : memory_(static_cast<std::byte*>(::operator new(dynamic_bytes + guard_bytes, alignment))), bytes_(dynamic_bytes) {
    block.dynamic_memory = memory_;
    block.dynamic_bytes = bytes_;
    std::fill_n(memory_ + bytes_, guard_bytes, guard_value);
}

SharedMemory::~SharedMemory() {
    ::operator delete(memory_, alignment);
    block.dynamic_memory = nullptr;
    block.dynamic_bytes = 0;
}

void SharedMemory::refill() {
    std::fill_n(memory_, bytes_, fresh);
    for (const SharedVariable& variable : blocks_ == 0 ? shared_variables() : used_) {
        std::fill_n(variable.data, variable.bytes, fresh);
    }
}

void SharedMemory::find_used() {
    std::size_t static_bytes = 0;
    for (const SharedVariable& variable : shared_variables()) {
        const bool touched =
            std::any_of(variable.data, variable.data + variable.bytes, [](std::byte value) { return value != fresh; });
        if (!touched) continue;
        used_.push_back(variable);
        static_bytes += variable.bytes;
    }
    const std::string has = std::to_string(static_bytes) + " bytes of static shared memory";
    if (bytes_ > 0 && static_bytes > most_static_beside_dynamic) {
        throw KernelFault(has + " beside dynamic one, more than launch() leaves room for");
    }
    if (static_bytes > shared_bytes_without_asking) throw KernelFault(has + ", more than a device has");
    if (bytes_ + static_bytes > static_cast<std::size_t>(most_shared_bytes)) {
        throw KernelFault(has + " and " + std::to_string(bytes_) + " of dynamic one, more than a device has");
    }
}

void SharedMemory::check() {
    if (blocks_++ == 0) find_used();
    const std::byte* guard = memory_ + bytes_;
    if (std::all_of(guard, guard + guard_bytes, [](std::byte value) { return value == guard_value; })) return;
    throw KernelFault("a write beyond the end of " + std::to_string(bytes_) + " bytes of dynamic shared memory");
}

bool in_shared_memory(const void* address, std::size_t bytes) {
    const auto* memory = static_cast<const std::byte*>(address);
    const auto* first = static_cast<const std::byte*>(block.dynamic_memory);
    if (memory >= first && memory + bytes <= first + block.dynamic_bytes) return true;
    const SharedVariable* variable = shared_variable_at(address);
    return variable != nullptr && memory + bytes <= variable->data + variable->bytes;
}

}  // namespace pvtune::cuda::emulation
