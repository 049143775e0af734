#include "host/common/memory.h"

#include <sys/resource.h>
#include <algorithm>
#include <fstream>
#include <string>

namespace pvtune {

namespace {

/// The number behind a name at the start of a line, or -1.
std::int64_t named_value(const std::string& file, const std::string& name) {
    std::ifstream stream(file);
    std::string key;
    while (stream >> key) {
        std::int64_t value = -1;
        if (key == name) return stream >> value ? value : -1;
        stream.ignore(1 << 16, '\n');
    }
    return -1;
}

/// A "Name:   12 kB" line of a /proc file in bytes, or -1.
std::int64_t proc_bytes(const char* file, const std::string& name) {
    const std::int64_t kibibytes = named_value(file, name);
    return kibibytes < 0 ? -1 : kibibytes * 1024;
}

std::int64_t only_value(const std::string& file) {
    std::ifstream stream(file);
    std::int64_t value = -1;
    return stream >> value ? value : -1;
}

}  // namespace

std::int64_t available_memory() {
    constexpr std::int64_t unlimited = std::int64_t{1} << 62;
    std::int64_t least = unlimited;
    if (const auto bytes = proc_bytes("/proc/meminfo", "MemAvailable:"); bytes >= 0) least = bytes;
    if (const auto bytes = available_to_cgroup("/sys/fs/cgroup"); bytes >= 0) least = std::min(least, bytes);
    rlimit address_space{};
    if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY) {
        const auto mapped = std::max<std::int64_t>(0, proc_bytes("/proc/self/status", "VmSize:"));
        const auto allowed = static_cast<std::int64_t>(std::min<rlim_t>(address_space.rlim_cur, unlimited));
        least = std::min(least, std::max<std::int64_t>(0, allowed - mapped));
    }
    return least;
}

std::int64_t available_to_cgroup(const std::string& folder) {
    const std::int64_t limit = only_value(folder + "/memory.max");
    const std::int64_t used = only_value(folder + "/memory.current");
    if (limit < 0 || used < 0) return -1;
    std::int64_t cached = 0;
    for (const char* name : {"active_file", "inactive_file"}) {
        cached += std::max<std::int64_t>(0, named_value(folder + "/memory.stat", name));
    }
    return std::max<std::int64_t>(0, limit - used + cached);
}

std::int64_t peak_memory() { return std::max<std::int64_t>(0, proc_bytes("/proc/self/status", "VmHWM:")); }

}  // namespace pvtune
