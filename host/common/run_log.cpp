#include "host/common/run_log.h"

#include "host/common/disk.h"
#include "io/error.h"
#include "io/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace pvtune {

std::string json_line(const nlohmann::ordered_json& object) {
    return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void check_log(const std::string& path) {
    std::error_code none;
    if (!std::filesystem::exists(path, none)) {
        check_folder(path);
    } else if (::access(path.c_str(), W_OK) != 0 || std::filesystem::is_directory(path, none)) {
        throw Error("--log " + path + ": cannot be written: check the path");
    }
    check_replaces_json("--log", path);
}

namespace {

/// A descriptor of its own for the file that a standard stream goes to (`--log /dev/stdout >file`), where another
/// offset would write over what comes through the stream; else -1.
int stream_at(const std::string& path) {
    for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
        if (is_at(stream, path)) return fcntl(stream, F_DUPFD_CLOEXEC, 0);
    }
    return -1;
}

int open_log(const std::string& path, bool append) {
    if (const int stream = stream_at(path); stream >= 0) return stream;
    const auto fail = [&] {
        throw Error("--log " + path + ": cannot be written (" + std::strerror(errno) + "): check the path");
    };
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (descriptor < 0) fail();
    std::error_code none;
    if (!std::filesystem::is_regular_file(path, none)) return descriptor;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        ::close(descriptor);
        throw Error("--log " + path + ": another run is writing it: wait for it or name another");
    }
    if (!append && ::ftruncate(descriptor, 0) != 0) fail();
    return descriptor;
}

}  // namespace

RunLog::RunLog(std::string path, bool append) : path_(std::move(path)) {
    if (!path_.empty()) file_.reset(fdopen(open_log(path_, append), "a"));
}

void RunLog::write(const nlohmann::ordered_json& object) {
    if (!file_) return;
    const std::string line = json_line(object) + "\n";
    if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0) {
        fail_writing("--log " + path_, errno);
    }
}

}  // namespace pvtune
