#pragma once

#include <cstdio>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace pvtune {

/// JSON on one line; text that is not UTF-8 is mended, NaN and infinity become null.
std::string json_line(const nlohmann::ordered_json& object);

/// Throws Error where no log can be written, or where it would take the place of a file of another kind.
void check_log(const std::string& path);

/// A file of one JSON object a line, flushed line by line, so that a run that was killed leaves all it logged.
class RunLog {
public:
    /// No path: nothing is written. append keeps what a run that is resumed has logged.
    explicit RunLog(std::string path = "", bool append = false);

    void write(const nlohmann::ordered_json& object);

private:
    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    std::string path_;
    std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace pvtune
