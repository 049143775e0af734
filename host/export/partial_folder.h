#pragma once

#include <string>

namespace pvtune {

/// Throws Error when something is at `path` already: an export overwrites nothing. An empty folder will do where
/// folder is true.
void check_free(const std::string& path, bool folder);

/// A folder that appears whole or not at all: files go to `path.partial`, which commit() syncs and renames and the
/// destructor otherwise removes. What a killed run left there is replaced; one that still runs is an Error.
class PartialFolder {
public:
    explicit PartialFolder(std::string path);
    ~PartialFolder();
    PartialFolder(const PartialFolder&) = delete;
    PartialFolder& operator=(const PartialFolder&) = delete;

    /// Where to write.
    const std::string& partial() const { return partial_; }
    void write_text(const std::string& name, const std::string& text) const;
    void copy(const std::string& from) const;
    void commit();

private:
    std::string path_, partial_;
    int descriptor_ = -1;
};

}  // namespace pvtune
