#pragma once

// Where the emulated device and a real one differ for tests; all else in tests/cuda is the same source for both.

#include "cuda/runtime.h"

#include <gtest/gtest.h>

#include <cstddef>

#ifdef PVTUNE_EMULATED_CUDA

#include "tests/emulation/schedule.h"

#include <vector>

namespace pvtune::cuda {

/// Around every allocation of a test. The emulated runtime watches the ends of an allocation itself.
inline constexpr std::size_t guard_bytes = 0;

/// Runs body with threads in several orders. (Under the race detector in one: it sees races in any.)
template <class Body>
void for_each_schedule(Body&& body) {
    using emulation::Schedule;
    std::vector<Schedule> schedules = {
        {}, {Schedule::Order::reverse}, {Schedule::Order::shuffled, 1}, {Schedule::Order::shuffled, 2}};
    if (emulation::watches_races()) schedules = {{Schedule::Order::shuffled, 1}};
    for (const Schedule schedule : schedules) {
        SCOPED_TRACE("threads " + emulation::name_of(schedule));
        emulation::set_schedule(schedule);
        body();
    }
    emulation::set_schedule({});
}

}  // namespace pvtune::cuda

#else

namespace pvtune::cuda {

/// Around every allocation of a test; a multiple of what cudaMalloc aligns to.
inline constexpr std::size_t guard_bytes = 256;

/// A device chooses the order of its threads itself.
template <class Body>
void for_each_schedule(Body&& body) {
    body();
}

}  // namespace pvtune::cuda

#endif
