#pragma once

#include <cstddef>

namespace pvtune::cuda::emulation {

/// Hears of what orders the threads of a block and of what the emulator itself reads and writes for them; the race
/// detector is one. Atomic accesses of the kernel arrive here too.
class Observer {
public:
    enum class Access { read, write, atomic };
    virtual ~Observer() = default;
    virtual void grid_starts() = 0;
    virtual void block_starts(int threads) = 0;
    /// May throw KernelFault.
    virtual void grid_ends() = 0;
    /// Every live thread has reached the barrier and none has left it.
    virtual void barrier() = 0;
    /// The lanes of a warp have met in __syncwarp.
    virtual void warp_barrier(int warp, unsigned mask) = 0;
    /// __threadfence.
    virtual void fence() = 0;
    /// By the thread that runs; code: where in the program.
    virtual void access(const void* address, std::size_t bytes, Access kind, const void* code) = 0;
};

/// Null where none is linked.
extern Observer* observer;

inline void observe(const void* address, std::size_t bytes, Observer::Access kind, const void* code) {
    if (observer != nullptr) observer->access(address, bytes, kind, code);
}

inline void observe_fence() {
    if (observer != nullptr) observer->fence();
}

}  // namespace pvtune::cuda::emulation
