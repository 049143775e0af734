#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace pvtune {

/// What a progress line counts.
struct ProgressSettings {
    std::string task;            ///< "eval"
    std::int64_t total = 0;      ///< items; 0: not known
    std::string unit = "items";  ///< "windows"
    std::string rate_unit;       ///< of the rate, where it is not `unit`: "tokens"
    double rate_scale = 1;       ///< rate units an item: 1024 tokens a window
    bool quiet = false;
};

/// Where progress goes; tests put their own.
struct ProgressSink {
    bool terminal = false;
    std::function<void(std::string_view)> write;
    std::function<double()> now;  ///< seconds
};

/// Standard error and the steady clock.
ProgressSink standard_error();

/// "eval: 12/40 windows, 8.10 k tokens/s, 0:12 left, nll 3.1841". On a terminal one line that is rewritten at most ten
/// times a second; elsewhere plain lines, at most one every few seconds. The first and the last are always shown.
class Progress {
public:
    explicit Progress(ProgressSettings settings, ProgressSink sink = standard_error());
    /// Ends a line that is still open, so that what follows (an error) starts on its own.
    ~Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// Items done so far (of this run and, on a resume, those before: see `start_at`) and a value worth watching.
    void update(std::int64_t done, const std::string& value = "");
    /// Items that were done before this run, and the time until now: they count as done, not for the rate.
    void start_at(std::int64_t done) {
        first_ = done;
        start_ = sink_.now();
    }

private:
    std::string line(std::int64_t done, const std::string& value, double elapsed) const;

    ProgressSettings settings_;
    ProgressSink sink_;
    double start_;
    double shown_ = -1;
    std::int64_t first_ = 0;
    std::int64_t last_shown_ = -1;
    std::size_t width_ = 0;
    bool open_ = false;
};

}  // namespace pvtune
