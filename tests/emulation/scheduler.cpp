#include "tests/emulation/scheduler.h"
#include "tests/emulation/circumstances.h"
#include "tests/emulation/device_memory.h"
#include "tests/emulation/launch.h"
#include "tests/emulation/observer.h"
#include "tests/emulation/sanitizer.h"
#include "tests/emulation/schedule.h"
#include "tests/emulation/shared_memory.h"
#include "tests/emulation/stacks.h"

#include <boost/context/detail/fcontext.hpp>

#include <algorithm>
#include <random>
#include <stdexcept>

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace pvtune::cuda::emulation {

Block block;
Observer* observer = nullptr;

namespace {

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

Schedule schedule;
std::mt19937 engine;
Thread scheduler;  // stands for the code that started the block
Stack scheduler_stack;
void (*kernel_of_grid)(void*);
void* arguments_of_grid;
constexpr std::size_t frames_of_a_switch = 4096;
bool stacks_abandoned = false;  // fibers that a fault left behind did not clean up for the address sanitizer

/// After a switch: the fiber that ran before goes on where it left.
void arrived(transfer_t from) { static_cast<Thread*>(from.data)->context = from.fctx; }

/// `last`: the present fiber will not run again.
void switch_to(Thread& next, bool last) {
    Thread* present = block.current != nullptr ? block.current : &scheduler;
    const bool to_scheduler = &next == &scheduler;
    block.current = to_scheduler ? nullptr : &next;
    threadIdx = next.position;
    if constexpr (address_sanitizer) {
        const Stack stack = to_scheduler ? scheduler_stack : stack_of(next.index);
        start_switch(last ? nullptr : &present->fake_stack, stack.bottom, stack.bytes);
    }
    const transfer_t from = jump_fcontext(next.context, present);
    finish_switch(present->fake_stack);
    arrived(from);
}

Thread& next_thread() {
    if (block.fault || block.next_ready == block.ready.size()) return scheduler;
    return block.threads[static_cast<std::size_t>(block.ready[block.next_ready++])];
}

/// A thread that ends leaves nobody waiting for it.
void leave() {
    Thread& thread = self();
    Warp& warp = block.warps[static_cast<std::size_t>(thread.warp())];
    thread.state = Thread::State::done;
    warp.live &= ~(1U << thread.lane());
    --block.live;
    for (const Rendezvous& pending : warp.pending) {
        if ((pending.mask >> thread.lane() & 1U) == 0) continue;
        const int other = thread.warp() * warp_lanes + __builtin_ctz(pending.arrived);
        const Thread& waiting = block.threads[static_cast<std::size_t>(other)];
        fault("returned, but " + describe(waiting) + " waits for it", waiting.where);
    }
    open_barrier_if_complete();
}

void fiber(transfer_t from) {
    finish_switch(nullptr);
    arrived(from);
    try {
        kernel_of_grid(arguments_of_grid);
        leave();
    } catch (...) {
        block.fault = std::current_exception();
    }
    switch_to(next_thread(), true);
}

std::string list_of(const uint3& position) {
    return "(" + std::to_string(position.x) + "," + std::to_string(position.y) + "," + std::to_string(position.z) + ")";
}

bool wait_for_the_same(const Thread& a, const Thread& b) {
    if (a.state != b.state) return false;
    if (a.state == Thread::State::done) return true;
    return a.operation == b.operation && a.mask == b.mask && a.where.line() == b.where.line();
}

/// Nothing can run and not all are done: who waits where. Threads that wait for the same are one entry.
std::string deadlock() {
    std::string text = "block " + list_of(blockIdx) + " cannot go on:";
    const Thread* first = nullptr;
    int count = 0;
    const auto flush = [&] {
        if (first == nullptr) return;
        text += "\n  " + std::to_string(count) + " thread(s) from " + list_of(first->position) + " on " +
                (first->state == Thread::State::done ? "have returned" : "wait in " + describe(*first));
    };
    for (const Thread& thread : block.threads) {
        if (first != nullptr && wait_for_the_same(thread, *first)) {
            ++count;
            continue;
        }
        flush();
        first = &thread;
        count = 1;
    }
    flush();
    return text;
}

void shuffle(std::vector<int>::iterator first, std::vector<int>::iterator last) {
    if (schedule.order == Schedule::Order::reverse) std::reverse(first, last);
    if (schedule.order == Schedule::Order::shuffled) std::shuffle(first, last, engine);
}

void start_threads(dim3 shape) {
    const int count = static_cast<int>(shape.x * shape.y * shape.z);
    block.threads.resize(static_cast<std::size_t>(count));
    block.warps.assign(static_cast<std::size_t>((count + warp_lanes - 1) / warp_lanes), {});
    block.live = count;
    block.waiting = block.predicates_true = 0;
    block.ready.clear();
    block.next_ready = 0;
    block.current = nullptr;
    block.fault = nullptr;
    for (int i = 0; i < count; ++i) {
        Thread& thread = block.threads[static_cast<std::size_t>(i)];
        const Stack stack = stack_of(i);
        // A thread that ended never came back from its last switch, so that the frames up to there stayed poisoned.
        const std::size_t left_behind = stacks_abandoned ? stack.bytes : std::min(stack.bytes, frames_of_a_switch);
        unpoison(stack.bottom + stack.bytes - left_behind, left_behind);
        thread.context = make_fcontext(stack.bottom + stack.bytes, stack.bytes, fiber);
        thread.fake_stack = nullptr;
        thread.index = i;
        const auto at = static_cast<unsigned>(i);
        thread.position = {at % shape.x, at / shape.x % shape.y, at / (shape.x * shape.y)};
        thread.copies.clear();
        thread.copy_groups = 0;
        block.warps[static_cast<std::size_t>(thread.warp())].live |= 1U << thread.lane();
    }
    make_ready_in_order(0, count, [](const Thread&) { return true; });
}

void run_block(dim3 shape) {
    start_threads(shape);
    stacks_abandoned = true;
    switch_to(next_thread(), false);
    if (block.fault) std::rethrow_exception(std::exchange(block.fault, nullptr));
    if (block.live > 0) throw KernelFault(deadlock());
    stacks_abandoned = false;
}

}  // namespace

void set_schedule(Schedule wanted) { schedule = wanted; }

bool watches_races() { return observer != nullptr; }

std::string name_of(Schedule named) {
    switch (named.order) {
        case Schedule::Order::forward:
            return "forward";
        case Schedule::Order::reverse:
            return "reverse";
        case Schedule::Order::shuffled:
            return "shuffled, seed " + std::to_string(named.seed);
    }
    return "?";
}

void wait() {
    Thread& next = next_thread();
    if (&next != block.current) switch_to(next, false);
}

void make_ready(Thread& thread) {
    thread.state = Thread::State::ready;
    block.ready.push_back(thread.index);
}

void make_ready_in_order(int first, int last, bool (*released)(const Thread&)) {
    // The part of the queue that has run is given back now and then.
    if (block.next_ready == block.ready.size()) {
        block.ready.clear();
        block.next_ready = 0;
    }
    const auto before = static_cast<std::ptrdiff_t>(block.ready.size());
    for (int i = first; i < last; ++i) {
        Thread& thread = block.threads[static_cast<std::size_t>(i)];
        if (released(thread)) make_ready(thread);
    }
    shuffle(block.ready.begin() + before, block.ready.end());
}

std::string describe(const Where& where) { return std::string(where.file_name()) + ":" + std::to_string(where.line()); }

std::string describe(const Thread& thread) {
    std::string text = "thread " + list_of(thread.position);
    if (thread.state == Thread::State::at_barrier || thread.state == Thread::State::in_warp) {
        text += std::string(" in ") + thread.operation;
        if (thread.state == Thread::State::in_warp) {
            char mask[16];
            std::snprintf(mask, sizeof(mask), "%08x", thread.mask);
            text += std::string(" mask ") + mask;
        }
        text += " at " + describe(thread.where);
    }
    return text;
}

void fault(const std::string& what, const Where& where) {
    throw KernelFault("block " + list_of(blockIdx) + " thread " + list_of(self().position) + ": " + what + " (" +
                      describe(where) + ")");
}

cudaError_t check_launch(dim3 grid, dim3 block_shape, std::size_t shared_bytes) {
    static std::int64_t launches = 0;
    if (launches++ == circumstances().failing_launch) return cudaErrorLaunchFailure;
    constexpr unsigned most_blocks_x = 0x7fffffff;
    constexpr unsigned most_blocks_yz = 65535;
    constexpr unsigned most_threads_z = 64;
    const std::uint64_t threads = std::uint64_t{block_shape.x} * block_shape.y * block_shape.z;
    const bool grid_fits = grid.x >= 1 && grid.x <= most_blocks_x && grid.y >= 1 && grid.y <= most_blocks_yz &&
                           grid.z >= 1 && grid.z <= most_blocks_yz;
    if (!grid_fits || threads < 1 || threads > most_threads || block_shape.z > most_threads_z) {
        return cudaErrorInvalidConfiguration;
    }
    return shared_bytes <= most_shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}

void run_grid(dim3 grid, dim3 block_shape, std::size_t shared_bytes, void (*kernel)(void*), void* arguments) {
    const DeviceAccess access;
    SharedMemory shared(shared_bytes);
    scheduler_stack = native_stack();
    engine.seed(schedule.seed);
    kernel_of_grid = kernel;
    arguments_of_grid = arguments;
    gridDim = grid;
    blockDim = block_shape;
    const unsigned threads = block_shape.x * block_shape.y * block_shape.z;
    if (observer != nullptr) observer->grid_starts();
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                shared.refill();
                if (observer != nullptr) observer->block_starts(static_cast<int>(threads));
                run_block(block_shape);
                shared.check();
            }
        }
    }
    check_device_guards();
    if (observer != nullptr) observer->grid_ends();
}

}  // namespace pvtune::cuda::emulation
