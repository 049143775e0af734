#include "host/common/text.h"

#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace pvtune {

std::string format(const char* pattern, ...) {
    std::va_list arguments;
    va_start(arguments, pattern);
    std::va_list again;
    va_copy(again, arguments);
    const int length = std::vsnprintf(nullptr, 0, pattern, arguments);
    va_end(arguments);
    std::string text(length > 0 ? static_cast<std::size_t>(length) : 0, '\0');
    std::vsnprintf(text.data(), text.size() + 1, pattern, again);
    va_end(again);
    return text;
}

std::string bytes_text(std::int64_t bytes) {
    constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB"};
    if (bytes < 1024) return std::to_string(bytes) + " B";
    double value = static_cast<double>(bytes) / 1024;
    std::size_t unit = 0;
    while (value >= 1000 && unit + 1 < units.size()) {
        value /= 1024;
        ++unit;
    }
    return format("%.1f %s", value, units[unit]);
}

std::string count_text(double count) {
    constexpr std::array prefixes{"k", "M", "G", "T", "P", "E"};
    if (std::fabs(count) < 1000) return format(count == std::floor(count) ? "%.0f" : "%.2f", count);
    std::size_t prefix = 0;
    count /= 1000;
    while (std::fabs(count) >= 999.5 && prefix + 1 < prefixes.size()) {
        count /= 1000;
        ++prefix;
    }
    return format(std::fabs(count) >= 100  ? "%.0f %s"
                  : std::fabs(count) >= 10 ? "%.1f %s"
                                           : "%.2f %s",
                  count, prefixes[prefix]);
}

std::string duration_text(double seconds) {
    if (!(seconds < 1e9)) return "?";
    if (seconds < 10) return format("%.1f s", seconds);
    const auto whole = static_cast<long>(std::lround(seconds));
    if (whole < 60) return format("%ld s", whole);
    if (whole < 3600) return format("%ld:%02ld", whole / 60, whole % 60);
    return format("%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const auto extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
    return text.empty() ? "a single number" : text;
}

std::string one_line(std::string_view text) {
    std::string line;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte <= 0x20 || byte == 0x7f) {
            if (!line.empty() && line.back() != ' ') line += ' ';
        } else {
            line += c;
        }
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    return line;
}

}  // namespace pvtune
