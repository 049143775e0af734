#include "tests/emulation/stacks.h"
#include "tests/emulation/device_limits.h"
#include "tests/emulation/sanitizer.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <system_error>
#include <vector>

namespace pvtune::cuda::emulation {
namespace {

// Frames grow under the address sanitizer.
constexpr std::size_t stack_bytes = (address_sanitizer ? 256 : 64) * std::size_t{1024};

Stack allocate() {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
        throw std::system_error(errno, std::generic_category(), "a stack for an emulated thread");
    }
    return {static_cast<std::byte*>(memory) + page, stack_bytes};
}

Stack find_native_stack() {
    pthread_attr_t attributes;
    void* bottom = nullptr;
    std::size_t bytes = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return {nullptr, 0};
    pthread_attr_getstack(&attributes, &bottom, &bytes);
    pthread_attr_destroy(&attributes);
    return {static_cast<std::byte*>(bottom), bytes};
}

}  // namespace

Stack stack_of(int thread) {
    static std::vector<Stack> stacks;
    while (static_cast<int>(stacks.size()) <= thread) stacks.push_back(allocate());
    Stack stack = stacks[static_cast<std::size_t>(thread)];
    // Stacks lie a multiple of a page apart: without an offset the tops of all would share the same few cache lines.
    constexpr int colours = 16;
    constexpr std::size_t step = 256;
    stack.bytes -= static_cast<std::size_t>(thread % colours) * step;
    return stack;
}

Stack native_stack() {
    static thread_local const Stack stack = find_native_stack();
    return stack;
}

}  // namespace pvtune::cuda::emulation
