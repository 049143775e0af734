#pragma once

#include <cstdint>
#include <string>

namespace pvtune::cpu {

/// Bytes of the second- and third-level caches of the CPUs that this process may run on, each counted once, as `folder`
/// (laid out like /sys/devices/system/cpu) has them; 0 where it says nothing. The C library's figure can be that of a
/// whole host of which a virtual machine has a part.
std::int64_t cache_bytes(const std::string& folder);

}  // namespace pvtune::cpu
