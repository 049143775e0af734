#pragma once

#include <sys/stat.h>
#include <string>

namespace pvtune {

/// Size and time of an open file: tells that somebody wrote to it while it was read, so that what was read may be of
/// two files.
class FileState {
public:
    FileState() = default;
    explicit FileState(int descriptor);

    /// Throws Error, naming `path`, if the open file was written to since.
    void check_unchanged(int descriptor, const std::string& path) const;

private:
    struct stat status_ {};
};

}  // namespace pvtune
