#pragma once

// Atomic operations: threads change places at waits only, so that plain accesses are atomic. The overloads are CUDA's.

#include "tests/emulation/observer.h"

#include <algorithm>
#include <bit>

namespace pvtune::cuda::emulation {

/// Sets *address to change(*address) and returns what was there.
template <class T, class Change>
__attribute__((no_sanitize("thread"), noinline)) T atomic(T* address, Change change) {
    observe(address, sizeof(T), Observer::Access::atomic, __builtin_return_address(0));
    const T before = *address;
    *address = change(before);
    return before;
}

}  // namespace pvtune::cuda::emulation

#define PVTUNE_ATOMIC(name, type, result)                                              \
    inline type name(type* address, type value) {                                      \
        return pvtune::cuda::emulation::atomic(address, [value](type before) -> type { \
            (void)before;                                                              \
            return result;                                                             \
        });                                                                            \
    }
PVTUNE_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(before) + static_cast<unsigned>(value)))
PVTUNE_ATOMIC(atomicAdd, unsigned, before + value)
PVTUNE_ATOMIC(atomicAdd, unsigned long long, before + value)
PVTUNE_ATOMIC(atomicAdd, float, before + value)
PVTUNE_ATOMIC(atomicAdd, double, before + value)
PVTUNE_ATOMIC(atomicSub, int, static_cast<int>(static_cast<unsigned>(before) - static_cast<unsigned>(value)))
PVTUNE_ATOMIC(atomicSub, unsigned, before - value)
PVTUNE_ATOMIC(atomicMin, int, std::min(before, value))
PVTUNE_ATOMIC(atomicMin, unsigned, std::min(before, value))
PVTUNE_ATOMIC(atomicMin, long long, std::min(before, value))
PVTUNE_ATOMIC(atomicMin, unsigned long long, std::min(before, value))
PVTUNE_ATOMIC(atomicMax, int, std::max(before, value))
PVTUNE_ATOMIC(atomicMax, unsigned, std::max(before, value))
PVTUNE_ATOMIC(atomicMax, long long, std::max(before, value))
PVTUNE_ATOMIC(atomicMax, unsigned long long, std::max(before, value))
PVTUNE_ATOMIC(atomicAnd, int, before& value)
PVTUNE_ATOMIC(atomicAnd, unsigned, before& value)
PVTUNE_ATOMIC(atomicAnd, unsigned long long, before& value)
PVTUNE_ATOMIC(atomicOr, int, before | value)
PVTUNE_ATOMIC(atomicOr, unsigned, before | value)
PVTUNE_ATOMIC(atomicOr, unsigned long long, before | value)
PVTUNE_ATOMIC(atomicXor, int, before ^ value)
PVTUNE_ATOMIC(atomicXor, unsigned, before ^ value)
PVTUNE_ATOMIC(atomicXor, unsigned long long, before ^ value)
PVTUNE_ATOMIC(atomicExch, int, value)
PVTUNE_ATOMIC(atomicExch, unsigned, value)
PVTUNE_ATOMIC(atomicExch, unsigned long long, value)
PVTUNE_ATOMIC(atomicExch, float, value)
PVTUNE_ATOMIC(atomicInc, unsigned, before >= value ? 0U : before + 1U)
PVTUNE_ATOMIC(atomicDec, unsigned, before == 0 || before > value ? value : before - 1U)
#undef PVTUNE_ATOMIC

#define PVTUNE_COMPARE_AND_SWAP(type)                                                                            \
    inline type atomicCAS(type* address, type compare, type value) {                                             \
        return pvtune::cuda::emulation::atomic(address,                                                          \
                                               [=](type before) { return before == compare ? value : before; }); \
    }
PVTUNE_COMPARE_AND_SWAP(int)
PVTUNE_COMPARE_AND_SWAP(unsigned)
PVTUNE_COMPARE_AND_SWAP(unsigned long long)
PVTUNE_COMPARE_AND_SWAP(unsigned short)
#undef PVTUNE_COMPARE_AND_SWAP

// One thread at a time runs: memory is in order.
inline void __threadfence() { pvtune::cuda::emulation::observe_fence(); }
inline void __threadfence_block() {}
inline void __threadfence_system() { pvtune::cuda::emulation::observe_fence(); }
