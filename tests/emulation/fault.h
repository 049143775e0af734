#pragma once

#include <stdexcept>
#include <string>

namespace pvtune::cuda::emulation {

/// What a kernel did that the CUDA model forbids: who (block, thread), what, and where in its source. Leaves launch().
class KernelFault : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

}  // namespace pvtune::cuda::emulation
