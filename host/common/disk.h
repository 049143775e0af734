#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace pvtune {

/// Throws Error unless a file can be made at path, or take the place of the one there; returns the folder that it goes
/// to.
std::string check_folder(const std::string& path);

/// Throws Error unless `bytes` more can be written to path (less than 0: files that go give more than is needed): its
/// folder is there and writable, path is no folder, and the file system has room, and the process's limit on file
/// sizes, if they go to `files` of about the same size. Asked before any work starts.
void check_disk(const std::string& path, std::int64_t bytes, std::int64_t files = 1);

/// Flags with their files.
using NamedFiles = std::vector<std::pair<const char*, std::string>>;

/// Throws Error if what a run writes (`out` under the names that it has meanwhile, `log`; empty: none) would take the
/// place of one of its inputs, or the log that of `out`.
void check_outputs(const std::string& out, const std::string& log, const NamedFiles& inputs);

/// Throws Error if path, of `flag`, is a file that does not begin like JSON: something else would be lost.
void check_replaces_json(const char* flag, const std::string& path);

/// Throws Error if path, of --out, is a file but no model of this program: something else would be lost.
void check_replaces_model(const std::string& path);
/// The same of checkpoints.
void check_replaces_checkpoint(const std::string& path);

/// Bytes of disk that the files of a folder take; 0 where there is none.
std::int64_t bytes_in_folder(const std::string& path);

}  // namespace pvtune
