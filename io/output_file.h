#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace pvtune {

/// Throws the Error of a write to `path` that failed with this errno: what happened and the remedy.
[[noreturn]] void fail_writing(const std::string& path, int error);

/// A file that is written at offsets, under a temporary name; errors name the one that it will get.
class OutputFile {
public:
    /// create: made anew, else an existing file is gone on with.
    OutputFile(const std::string& path, std::string shown, bool create = true);
    ~OutputFile();
    OutputFile(OutputFile&& other) noexcept;
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    void write(std::int64_t offset, std::span<const std::byte> data);
    std::int64_t size() const;
    /// To the disk, and closed.
    void finish();

private:
    std::string shown_;
    int descriptor_;
};

}  // namespace pvtune
