#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace pvtune {

/// Throws the Error of a write to `path` that failed with this errno: what happened and the remedy.
[[noreturn]] void fail_writing(const std::string& path, int error);

/// Opens, locks and empties `partial`, which is to become `path`, so that two runs with the same output do not write
/// into each other's. Throws Error where another has it; the lock goes with the descriptor, which the caller closes.
int open_partial(const std::string& path, const std::string& partial);

/// Opens and locks a folder that one run at a time may fill, on the way to `path`. Throws Error where another has it;
/// the lock goes with the descriptor, which the caller closes.
int lock_folder(const std::string& path, const std::string& folder);

/// Whether the file at `path` is this open one.
bool is_at(int descriptor, const std::string& path);

/// Syncs an open_partial(), which stays open, and renames it to `path`, the new name to the disk too. Throws Error,
/// also where another file has the name `partial` by now.
void commit_partial(int descriptor, const std::string& path, const std::string& partial);

/// To the disk: the names in the folder of path.
void sync_parent(const std::string& path);

/// A file that is written at offsets, under a temporary name; errors name the one that it will get.
class OutputFile {
public:
    /// Made anew.
    OutputFile(const std::string& path, std::string shown);
    /// Takes over an open file, as of open_partial().
    OutputFile(int descriptor, std::string shown);
    ~OutputFile();
    OutputFile(OutputFile&& other) noexcept;
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    void write(std::int64_t offset, std::span<const std::byte> data);
    std::int64_t size() const;
    int descriptor() const { return descriptor_; }
    /// To the disk, and closed.
    void finish();

private:
    std::string shown_;
    int descriptor_;
};

}  // namespace pvtune
