#pragma once

#include "io/output_file.h"

#include <string>

namespace pvtune {

/// A file that appears whole or not at all: written as `path.partial`, which commit() syncs and renames and the
/// destructor otherwise removes. What a killed run left there is replaced; one that still runs is an Error.
class PartialFile {
public:
    explicit PartialFile(std::string path);
    ~PartialFile();
    PartialFile(const PartialFile&) = delete;
    PartialFile& operator=(const PartialFile&) = delete;

    OutputFile& file() { return file_; }
    void commit();

private:
    std::string path_, partial_;
    OutputFile file_;
    bool committed_ = false;
};

}  // namespace pvtune
