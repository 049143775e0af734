#pragma once

#include "io/partial_file.h"

#include <cstdint>
#include <string>

namespace pvtune {

/// A PartialFile of text, written in large pieces.
class TextFile {
public:
    explicit TextFile(std::string path) : file_(std::move(path)) {}

    void write(const std::string& text);
    void commit();

private:
    void flush();

    PartialFile file_;
    std::string buffer_;
    std::int64_t offset_ = 0;
};

}  // namespace pvtune
