#pragma once

#include <cstdint>

namespace pvtune {

/// Bytes that this process may still take: the least of the machine's available memory, its cgroup's and its
/// address-space limit.
std::int64_t available_memory();

/// Peak resident bytes of this process.
std::int64_t peak_memory();

}  // namespace pvtune
