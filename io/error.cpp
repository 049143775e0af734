#include "io/error.h"

namespace pvtune {

std::string printable(std::string_view name) {
    constexpr std::size_t longest = 200;
    std::string result(name.substr(0, longest));
    for (char& c : result)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    return name.size() > longest ? result + "..." : result;
}

}  // namespace pvtune
