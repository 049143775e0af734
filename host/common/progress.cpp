#include "host/common/progress.h"

#include "host/common/text.h"

#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <cstdio>

namespace pvtune {

namespace {
constexpr double seconds_between_rewrites = 0.1;
constexpr double seconds_between_lines = 5;
}  // namespace

ProgressSink standard_error() {
    return {isatty(STDERR_FILENO) != 0,
            [](std::string_view text) {
                std::fwrite(text.data(), 1, text.size(), stderr);
                std::fflush(stderr);
            },
            [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }};
}

Progress::Progress(ProgressSettings settings, ProgressSink sink)
    : settings_(std::move(settings)), sink_(std::move(sink)), start_(sink_.now()) {}

Progress::~Progress() {
    if (open_) sink_.write("\n");
}

std::string Progress::line(std::int64_t done, const std::string& value, double elapsed) const {
    const auto items = static_cast<double>(done - first_);
    std::string text = settings_.task + ": " + std::to_string(done);
    if (settings_.total > 0) text += "/" + std::to_string(settings_.total);
    text += " " + settings_.unit;
    if (items > 0 && elapsed > 0) {
        const double rate = items / elapsed;
        text += ", " + count_text(rate * settings_.rate_scale) + " " +
                (settings_.rate_unit.empty() ? settings_.unit : settings_.rate_unit) + "/s";
        if (done < settings_.total) {
            text += ", " + duration_text(static_cast<double>(settings_.total - done) / rate) + " left";
        } else {
            text += ", " + duration_text(elapsed) + " in all";
        }
    }
    if (!value.empty()) text += ", " + value;
    return text;
}

void Progress::update(std::int64_t done, const std::string& value) {
    if (settings_.quiet) return;
    const double now = sink_.now();
    const bool last = settings_.total > 0 && done >= settings_.total;
    const double pause = sink_.terminal ? seconds_between_rewrites : seconds_between_lines;
    if (shown_ >= 0 && !last && now - shown_ < pause) return;
    if (last && done == last_shown_) return;
    shown_ = now;
    last_shown_ = done;
    std::string text = line(done, value, now - start_);
    if (sink_.terminal) {
        const std::size_t width = text.size();
        if (width < width_) text.append(width_ - width, ' ');  // wipes what the longer line before left
        width_ = width;
        sink_.write("\r" + text + (last ? "\n" : ""));
        open_ = !last;
    } else {
        sink_.write(text + "\n");
    }
}

}  // namespace pvtune
