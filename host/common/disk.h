#pragma once

#include <cstdint>
#include <string>

namespace pvtune {

/// Throws Error unless `bytes` can be written to path: its folder is there and writable, path is no folder, and the
/// file system (and the process's limit on file sizes) has room. Asked before any work starts.
void check_disk(const std::string& path, std::int64_t bytes);

}  // namespace pvtune
