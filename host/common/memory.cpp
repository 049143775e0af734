#include "host/common/memory.h"

#include <sys/resource.h>
#include <algorithm>
#include <fstream>
#include <string>

namespace pvtune {

namespace {

/// A "Name:   12 kB" line of a /proc file in bytes, or -1.
std::int64_t proc_bytes(const char* file, const std::string& name) {
    std::ifstream stream(file);
    std::string key;
    while (stream >> key) {
        if (key == name) {
            std::int64_t kibibytes = 0;
            stream >> kibibytes;
            return kibibytes * 1024;
        }
        stream.ignore(1 << 16, '\n');
    }
    return -1;
}

std::int64_t cgroup_value(const char* file) {
    std::ifstream stream(file);
    std::int64_t value = -1;
    return stream >> value ? value : -1;
}

}  // namespace

std::int64_t available_memory() {
    constexpr std::int64_t unlimited = std::int64_t{1} << 62;
    std::int64_t least = unlimited;
    if (const auto bytes = proc_bytes("/proc/meminfo", "MemAvailable:"); bytes >= 0) least = bytes;
    const auto limit = cgroup_value("/sys/fs/cgroup/memory.max");
    const auto used = cgroup_value("/sys/fs/cgroup/memory.current");
    if (limit >= 0 && used >= 0) least = std::min(least, std::max<std::int64_t>(0, limit - used));
    rlimit address_space{};
    if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY) {
        const auto mapped = std::max<std::int64_t>(0, proc_bytes("/proc/self/status", "VmSize:"));
        const auto allowed = static_cast<std::int64_t>(std::min<rlim_t>(address_space.rlim_cur, unlimited));
        least = std::min(least, std::max<std::int64_t>(0, allowed - mapped));
    }
    return least;
}

std::int64_t peak_memory() { return std::max<std::int64_t>(0, proc_bytes("/proc/self/status", "VmHWM:")); }

}  // namespace pvtune
