#include "tests/emulation/race_symbols.h"

#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdio>

namespace pvtune::cuda::emulation {
namespace {

std::uintptr_t find_base() {
    std::uintptr_t base = 0;
    const auto take_first = [](dl_phdr_info* info, std::size_t, void* out) {
        *static_cast<std::uintptr_t*>(out) = info->dlpi_addr;
        return 1;  // the first is the program
    };
    dl_iterate_phdr(take_first, static_cast<void*>(&base));
    return base;
}

std::string program_path() {
    std::array<char, PATH_MAX> path{};
    const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
    return length > 0 ? std::string(path.data(), static_cast<std::size_t>(length)) : std::string();
}

}  // namespace

std::uint32_t code_offset(const void* code) {
    static const std::uintptr_t base = find_base();
    return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(code) - base);
}

std::string source_line(std::uint32_t offset) {
    std::array<char, PATH_MAX + 64> text{};
    // A return address belongs to the line of the call before it.
    std::snprintf(text.data(), text.size(), "addr2line -s -i -e '%s' %#x 2>/dev/null", program_path().c_str(),
                  offset - 1);
    std::string lines;
    if (FILE* output = popen(text.data(), "r")) {
        while (std::fgets(text.data(), text.size(), output) != nullptr) {
            std::string line = text.data();
            line.resize(std::min({line.size(), line.find('\n'), line.find(" (discriminator")}));
            lines += (lines.empty() ? "" : " < ") + line;
        }
        pclose(output);
    }
    return lines.empty() ? "?" : lines;
}

}  // namespace pvtune::cuda::emulation
