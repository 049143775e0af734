#include "host/common/run_log.h"

#include "host/common/disk.h"
#include "io/error.h"

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

RunLog::RunLog(std::string path, bool append) : path_(std::move(path)) {
    if (path_.empty()) return;
    file_.reset(std::fopen(path_.c_str(), append ? "ae" : "we"));
    if (!file_) throw Error("--log " + path_ + ": cannot be written (" + std::strerror(errno) + "): check the path");
}

void RunLog::write(const nlohmann::ordered_json& object) {
    if (!file_) return;
    const std::string line = json_line(object) + "\n";
    if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0) {
        throw Error("--log " + path_ + ": cannot be written (" + std::strerror(errno) + "): free some space");
    }
}

}  // namespace pvtune
