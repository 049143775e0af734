#include "tests/emulation/async_copy.h"
#include "tests/emulation/device_memory.h"
#include "tests/emulation/observer.h"

#include <cstring>

namespace pvtune::cuda::emulation {

void async_copy_16(void* shared, const void* global, int valid, Where where) {
    if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0) {
        fault("async_copy_16 between addresses that are no multiples of 16", where);
    }
    if (valid < 0 || valid > 16) fault("async_copy_16 of " + std::to_string(valid) + " bytes", where);
    if (in_device_memory(shared, 1)) fault("async_copy_16 to device memory, not shared", where);
    if (valid > 0 && !in_device_memory(global, static_cast<std::size_t>(valid))) {
        fault("async_copy_16 from " + std::to_string(valid) + " bytes outside of every device allocation", where);
    }
    const void* code = __builtin_return_address(0);
    observe(shared, 16, Observer::Access::write, code);
    if (valid > 0) observe(global, static_cast<std::size_t>(valid), Observer::Access::read, code);
    std::memset(shared, 0xff, 16);
    self().copies.push_back({shared, global, valid, self().copy_groups});
}

void async_commit() { ++self().copy_groups; }

void land_copies(int pending_groups, Where) {
    Thread& thread = self();
    auto& copies = thread.copies;
    std::size_t landed = 0;
    while (landed < copies.size() && copies[landed].group < thread.copy_groups - pending_groups) {
        const PendingCopy& copy = copies[landed++];
        observe(copy.shared, 16, Observer::Access::write, __builtin_return_address(0));
        std::memset(copy.shared, 0, 16);
        std::memcpy(copy.shared, copy.global, static_cast<std::size_t>(copy.valid));
    }
    copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(landed));
}

}  // namespace pvtune::cuda::emulation
