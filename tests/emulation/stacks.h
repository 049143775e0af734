#pragma once

#include <cstddef>

namespace pvtune::cuda::emulation {

/// A stack with a guard page below it.
struct Stack {
    std::byte* bottom;
    std::size_t bytes;
};

/// The stack of the i-th thread of a block; kept for the next launch.
Stack stack_of(int thread);
/// The stack that this OS thread came with.
Stack native_stack();

}  // namespace pvtune::cuda::emulation
