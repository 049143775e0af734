#pragma once

// The first argument of launch(): blocks, and where in the source a launcher asked for them. Behind the declaration of
// dim3, the toolkit's or the emulated one.

#include <source_location>

namespace pvtune::cuda {

struct LaunchGrid {
    dim3 blocks;
    std::source_location where;

    template <class Blocks>
    LaunchGrid(const Blocks& count, const std::source_location& here = std::source_location::current())
        : blocks(count), where(here) {}
};

}  // namespace pvtune::cuda
