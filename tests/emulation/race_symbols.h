#pragma once

#include <cstdint>
#include <string>

namespace pvtune::cuda::emulation {

/// Where in the program's file a code address is.
std::uint32_t code_offset(const void* code);
/// `function at file:line` of it, with the functions that it was inlined into.
std::string source_line(std::uint32_t offset);

}  // namespace pvtune::cuda::emulation
