#include "host/common/disk.h"

#include "host/common/text.h"
#include "io/error.h"
#include "io/store.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace pvtune {

namespace {

/// What a run adds to the name of its output while it goes on; the longest is the last.
constexpr std::array written_suffixes{"", ".partial", ".checkpoint", ".checkpoint.partial"};

/// Throws Error where a rename could not, or should not, take the place of what is at path.
void check_replaceable(const std::string& path, const std::string& folder) {
    struct stat there {};
    struct stat around {};
    if (::stat(path.c_str(), &there) != 0 || ::stat(folder.c_str(), &around) != 0) return;
    if (!S_ISREG(there.st_mode))
        throw Error(path + ": is no regular file, and the result would take its place: name another");
    const uid_t user = geteuid();
    if ((around.st_mode & S_ISVTX) != 0 && user != 0 && user != there.st_uid && user != around.st_uid)
        throw Error(path + ": is another user's, whose place no file can take in this folder: name another");
}

}  // namespace

std::string check_folder(const std::string& path) {
    namespace fs = std::filesystem;
    std::error_code code;
    if (fs::is_directory(path, code)) throw Error(path + ": is a folder: name a file to write");
    const fs::path parent = fs::path(path).parent_path();
    std::string folder = parent.empty() ? "." : parent.string();
    if (!fs::is_directory(folder, code)) throw Error(path + ": there is no folder " + folder + ": make it first");
    if (access(folder.c_str(), W_OK | X_OK) != 0) {
        throw Error(path + ": the folder cannot be written (" + std::strerror(errno) + "): check its permissions");
    }
    const auto longest = static_cast<std::size_t>(pathconf(folder.c_str(), _PC_NAME_MAX));  // all bits: no limit
    if (fs::path(path).filename().string().size() + std::strlen(written_suffixes.back()) > longest)
        throw Error(path + ": the name is too long, with what it gets while it is written: choose a shorter one");
    check_replaceable(path, folder);
    return folder;
}

void check_disk(const std::string& path, std::int64_t bytes, std::int64_t files) {
    if (path.empty()) throw Error("--out: an empty name: name a file");
    const std::string folder = check_folder(path);
    constexpr std::int64_t metadata = std::int64_t{1} << 20;
    bytes = std::max<std::int64_t>(0, bytes);
    const std::int64_t needed = bytes + bytes / 256 + metadata;  // checksums and indices of chunks
    struct statvfs status {};
    if (statvfs(folder.c_str(), &status) == 0) {
        const auto free = static_cast<std::int64_t>(status.f_bavail) * static_cast<std::int64_t>(status.f_frsize);
        if (free < needed) {
            throw Error(path + ": needs " + bytes_text(needed) + " of disk but " + bytes_text(free) +
                        " are free: free some or write elsewhere");
        }
    }
    rlimit largest{};
    if (getrlimit(RLIMIT_FSIZE, &largest) == 0 && largest.rlim_cur != RLIM_INFINITY &&
        largest.rlim_cur < static_cast<rlim_t>(bytes / files)) {
        throw Error(path + ": needs " + bytes_text(bytes / files) + " but files are limited to " +
                    bytes_text(static_cast<std::int64_t>(largest.rlim_cur)) + ": raise the limit (ulimit -f)");
    }
}

void check_outputs(const std::string& out, const std::string& log, const NamedFiles& inputs) {
    namespace fs = std::filesystem;
    std::error_code none;
    const auto refuse = [&](const std::string& flag, const std::string& written) {
        for (const auto& [name, input] : inputs) {
            if (!fs::equivalent(written, input, none)) continue;
            throw Error(flag + ": " + written + " is the file of " + name + ": name another");
        }
    };
    if (!log.empty()) refuse("--log", log);
    if (out.empty()) return;
    for (const char* suffix : written_suffixes) {
        const std::string written = out + suffix;
        refuse("--out", written);
        if (!log.empty() && fs::weakly_canonical(log, none) == fs::weakly_canonical(written, none))
            throw Error("--log " + log + ": is a file of --out: name another");
    }
}

void check_replaces_json(const char* flag, const std::string& path) {
    std::error_code none;
    if (!std::filesystem::is_regular_file(path, none)) return;
    std::ifstream file(path, std::ios::binary);
    char first = 0;
    if (!file.get(first) || first == '{') return;
    throw Error(std::string(flag) + " " + path + ": is a file that pvtune did not write: remove it or name another");
}

namespace {
void check_kind(const std::string& path, const std::string& shown, const char* kind, const char* called) {
    std::error_code none;
    if (!std::filesystem::is_regular_file(path, none) || std::filesystem::is_empty(path, none)) return;
    std::string found;
    try {
        found = store_kind(path);
    } catch (const Error&) {
        throw Error(shown + ": is a damaged file or one that pvtune did not write: remove it or name another --out");
    }
    if (found != kind)
        throw Error(shown + ": is no " + called + " but a store of '" + found + "': remove it or name another --out");
}
}  // namespace

void check_replaces_model(const std::string& path) { check_kind(path, "--out " + path, "weights", "model"); }

void check_replaces_checkpoint(const std::string& path) { check_kind(path, path, "checkpoint", "checkpoint"); }

std::int64_t bytes_in_folder(const std::string& path) {
    std::int64_t bytes = 0;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(path, none)) {
        struct stat status {};
        if (stat(entry.path().c_str(), &status) == 0) bytes += std::int64_t{512} * status.st_blocks;
    }
    return bytes;
}

}  // namespace pvtune
