#include "host/common/run_log.h"

#include "io/error.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

namespace pvtune {

std::string json_line(const nlohmann::ordered_json& object) {
    return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
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
