#pragma once

// One block at a time: every CUDA thread is a fiber that runs until it has to wait.

#include "tests/emulation/device_limits.h"
#include "tests/emulation/fault.h"
#include "tests/emulation/vector_types.h"

#include <array>
#include <cstdint>
#include <exception>
#include <source_location>
#include <string>
#include <vector>

namespace pvtune::cuda::emulation {

using Where = std::source_location;

/// A copy to shared memory under way: nothing has arrived yet.
struct PendingCopy {
    void* shared;
    const void* global;
    int valid;
    int group;
};

struct Thread {
    enum class State : std::uint8_t { ready, at_barrier, in_warp, done };

    void* context = nullptr;     ///< where it goes on
    void* fake_stack = nullptr;  ///< the address sanitizer's
    int index = 0;               ///< in the block
    uint3 position{};
    State state = State::ready;
    // What it waits for.
    const char* operation = nullptr;
    unsigned mask = 0;
    int predicate = 0;
    Where where;
    std::vector<PendingCopy> copies;
    int copy_groups = 0;  ///< closed so far

    int lane() const { return index % warp_lanes; }
    int warp() const { return index / warp_lanes; }
};

/// The lanes of a warp that wait for each other.
struct Rendezvous {
    const char* operation;
    unsigned mask;
    unsigned arrived;
    std::array<void*, warp_lanes> operands;
};

struct Warp {
    unsigned live = 0;
    std::vector<Rendezvous> pending;  ///< with different masks
};

/// The block that runs.
struct Block {
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<int> ready;  ///< a queue: from next_ready on
    std::size_t next_ready = 0;
    int live = 0;
    int waiting = 0;          ///< at the barrier
    int predicates_true = 0;  ///< of those waiting
    int barrier_result = 0;
    Thread* current = nullptr;
    void* dynamic_memory = nullptr;
    std::size_t dynamic_bytes = 0;
    std::exception_ptr fault;
};
extern Block block;

inline Thread& self() { return *block.current; }

/// Gives the processor to others until this thread is made ready again.
void wait();
void make_ready(Thread& thread);
/// Makes all of the threads in [first, last) ready that `released` says, in the order of the schedule.
void make_ready_in_order(int first, int last, bool (*released)(const Thread&));

/// Throws KernelFault: `block (x,y,z) thread (x,y,z): what (file:line)`.
[[noreturn]] void fault(const std::string& what, const Where& where);
std::string describe(const Thread& thread);
std::string describe(const Where& where);

/// Lets the threads at the barrier go if no other is to come.
void open_barrier_if_complete();

/// Runs kernel(arguments) once a thread of every block.
void run_grid(dim3 grid, dim3 block_shape, std::size_t shared_bytes, void (*kernel)(void*), void* arguments);

}  // namespace pvtune::cuda::emulation
