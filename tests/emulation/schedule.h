#pragma once

#include <cstdint>
#include <string>

namespace pvtune::cuda::emulation {

/// The order in which the threads of a block run, and in which a barrier lets them go.
struct Schedule {
    enum class Order : std::uint8_t { forward, reverse, shuffled };
    Order order = Order::forward;
    std::uint32_t seed = 0;  ///< of shuffled
};

/// For the launches that follow.
void set_schedule(Schedule schedule);
std::string name_of(Schedule schedule);

/// Whether this program carries the race detector.
bool watches_races();

}  // namespace pvtune::cuda::emulation
