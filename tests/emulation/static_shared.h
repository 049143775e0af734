#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace pvtune::cuda::emulation {

/// A __shared__ variable of some kernel of this program.
struct SharedVariable {
    std::byte* data;
    std::size_t bytes;
    std::string name;
};

/// Those of all kernels, by address. Empty where the address sanitizer runs: it guards them as plain statics instead.
const std::vector<SharedVariable>& shared_variables();
/// The one that holds the address, or null.
const SharedVariable* shared_variable_at(const void* address);

}  // namespace pvtune::cuda::emulation
