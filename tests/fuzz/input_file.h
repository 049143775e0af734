#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

/// The readers take paths: a fuzz input becomes a file in memory, with a path as long as this lives.
class InputFile {
public:
    InputFile(const std::uint8_t* data, std::size_t size) : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) {
        if (descriptor_ < 0) std::abort();
        while (size > 0) {
            const auto put = ::write(descriptor_, data, size);
            if (put <= 0) std::abort();
            data += put;
            size -= static_cast<std::size_t>(put);
        }
    }
    ~InputFile() { ::close(descriptor_); }
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;

    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

private:
    int descriptor_;
};
