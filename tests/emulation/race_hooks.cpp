// What code compiled with -fsanitize=thread calls at every access to memory; here it goes to the race detector.
#include "tests/emulation/observer.h"

#include <cstddef>
#include <cstdint>

using pvtune::cuda::emulation::observe;
using pvtune::cuda::emulation::Observer;

#define PVTUNE_HOOKS(bytes)                                                                                          \
    void __tsan_read##bytes(void* at) { observe(at, bytes, Observer::Access::read, __builtin_return_address(0)); }   \
    void __tsan_write##bytes(void* at) { observe(at, bytes, Observer::Access::write, __builtin_return_address(0)); } \
    void __tsan_unaligned_read##bytes(void* at) {                                                                    \
        observe(at, bytes, Observer::Access::read, __builtin_return_address(0));                                     \
    }                                                                                                                \
    void __tsan_unaligned_write##bytes(void* at) {                                                                   \
        observe(at, bytes, Observer::Access::write, __builtin_return_address(0));                                    \
    }                                                                                                                \
    void __tsan_volatile_read##bytes(void* at) {                                                                     \
        observe(at, bytes, Observer::Access::read, __builtin_return_address(0));                                     \
    }                                                                                                                \
    void __tsan_volatile_write##bytes(void* at) {                                                                    \
        observe(at, bytes, Observer::Access::write, __builtin_return_address(0));                                    \
    }

extern "C" {

PVTUNE_HOOKS(1)
PVTUNE_HOOKS(2)
PVTUNE_HOOKS(4)
PVTUNE_HOOKS(8)
PVTUNE_HOOKS(16)

void __tsan_read_range(void* at, std::size_t bytes) {
    observe(at, bytes, Observer::Access::read, __builtin_return_address(0));
}
void __tsan_write_range(void* at, std::size_t bytes) {
    observe(at, bytes, Observer::Access::write, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
/// The guard of a static variable in host code.
std::uint8_t __tsan_atomic8_load(const volatile std::uint8_t* at, int) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }

}  // extern "C"
