#include "host/export/partial_folder.h"

#include "io/error.h"
#include "io/output_file.h"

#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

namespace pvtune {

namespace fs = std::filesystem;

namespace {

std::string without_slash(std::string path) {
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    return path;
}

/// An empty folder at `path` must be one that a rename can replace, which no mount point and no "." is: that shows here
/// before any work.
void check_replaceable(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return;
    if (::rmdir(path.c_str()) == 0 && ::mkdir(path.c_str(), status.st_mode) == 0) return;
    if (errno == ENOTEMPTY || errno == EEXIST) check_free(path, true);
    throw Error(path + ": is a folder that cannot be replaced (" + std::strerror(errno) + "): name one inside it");
}

}  // namespace

void check_free(const std::string& path, bool folder) {
    std::error_code code;
    if (!fs::exists(fs::symlink_status(path, code))) return;
    if (folder && fs::is_directory(path, code) && fs::is_empty(path, code)) return;
    throw Error(path + ": is there already: remove it or choose another --out");
}

PartialFolder::PartialFolder(std::string path) : path_(without_slash(std::move(path))), partial_(path_ + ".partial") {
    check_replaceable(path_);
    if (::mkdir(partial_.c_str(), 0777) != 0 && errno != EEXIST) fail_writing(path_, errno);
    descriptor_ = lock_folder(path_, partial_);
    for (const fs::directory_entry& entry : fs::directory_iterator(partial_)) {
        if (entry.is_regular_file()) {
            fs::remove(entry.path());
            continue;
        }
        ::close(std::exchange(descriptor_, -1));
        throw Error(partial_ + ": holds " + entry.path().filename().string() +
                    ", which no export made: move it away or choose another --out");
    }
}

PartialFolder::~PartialFolder() {
    if (descriptor_ < 0) return;
    std::error_code ignored;
    fs::remove_all(partial_, ignored);
    ::close(descriptor_);
}

void PartialFolder::write_text(const std::string& name, const std::string& text) const {
    OutputFile file(partial_ + "/" + name, path_ + "/" + name);
    file.write(0, std::as_bytes(std::span<const char>(text.data(), text.size())));
    file.finish();
}

void PartialFolder::copy(const std::string& from) const {
    std::ifstream stream(from, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (!stream.good() && !stream.eof()) throw Error(from + ": cannot be read: check its permissions");
    write_text(fs::path(from).filename().string(), text);
}

void PartialFolder::commit() {
    ::fsync(descriptor_);
    if (::rename(partial_.c_str(), path_.c_str()) != 0) fail_writing(path_, errno);
    ::close(std::exchange(descriptor_, -1));
    sync_parent(path_);
}

}  // namespace pvtune
