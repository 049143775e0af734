#pragma once

#include <cstdio>
#include <memory>
#include <string>

namespace pvtune {

/// A text file that is written whole or not at all: to `path.partial`, which commit() syncs and renames and the
/// destructor otherwise removes. Throws Error naming the path.
class TextFile {
public:
    explicit TextFile(std::string path);
    ~TextFile();
    TextFile(const TextFile&) = delete;
    TextFile& operator=(const TextFile&) = delete;

    void write(const std::string& text);
    void commit();

private:
    [[noreturn]] void fail(int error);

    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    std::string path_, partial_;
    std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace pvtune
