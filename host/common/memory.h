#pragma once

#include <cstdint>
#include <string>

namespace pvtune {

/// Bytes that this process may still take: the least of the machine's available memory, its cgroup's and its
/// address-space limit.
std::int64_t available_memory();

/// What the cgroup at a folder of /sys/fs/cgroup may still take, or -1 where it has no limit. The pages of files that
/// it read count as used there, but make way.
std::int64_t available_to_cgroup(const std::string& folder);

/// Peak resident bytes of this process.
std::int64_t peak_memory();

}  // namespace pvtune
