#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pvtune {

/// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

/// "17 B", "3.1 KiB", "12.3 GiB"
std::string bytes_text(std::int64_t bytes);
/// Four digits with an SI prefix: "981", "12.34 k", "1.20 G".
std::string count_text(double count);
/// "0.4 s", "59 s", "3:07", "2:03:07"
std::string duration_text(double seconds);

/// "2 x 3"; "a single number" without dimensions.
std::string shape_text(const std::vector<std::int64_t>& shape);

/// All on one line: runs of white space and control characters become one space.
std::string one_line(std::string_view text);

}  // namespace pvtune
