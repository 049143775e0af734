#pragma once

#include <cstdint>
#include <string>

namespace pvtune {

/// Throws Error unless `bytes` can be written to path: its folder is there and writable, path is no folder, and the
/// file system has room, and the process's limit on file sizes, if they go to `files` of about the same size. Asked
/// before any work starts.
void check_disk(const std::string& path, std::int64_t bytes, std::int64_t files = 1);

}  // namespace pvtune
