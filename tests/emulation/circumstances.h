#pragma once

#include <cstddef>
#include <cstdint>

/// What befalls a program on the emulated device, from the environment, so that tests of the command line can ask for
/// it.
namespace pvtune::cuda::emulation {

struct Circumstances {
    int devices = 1;                                  ///< PVTUNE_EMULATED_DEVICES
    int compute_capability = 90;                      ///< PVTUNE_EMULATED_CAPABILITY, ten times the number
    std::size_t memory_bytes = std::size_t{8} << 30;  ///< PVTUNE_EMULATED_MEMORY
    std::int64_t failing_launch = -1;  ///< PVTUNE_EMULATED_FAILING_LAUNCH: launches before one that fails
};

/// Read once.
const Circumstances& circumstances();

}  // namespace pvtune::cuda::emulation
