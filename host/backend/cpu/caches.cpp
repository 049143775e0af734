#include "host/backend/cpu/caches.h"

#include <sched.h>
#include <filesystem>
#include <fstream>
#include <set>

namespace pvtune::cpu {

namespace {

template <class T>
T first_word(const std::filesystem::path& file) {
    T word{};
    std::ifstream(file) >> word;
    return word;
}

}  // namespace

std::int64_t cache_bytes(const std::string& folder) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 0;
    std::set<std::string> seen;
    std::int64_t kibibytes = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        const std::filesystem::path caches = std::filesystem::path(folder) / ("cpu" + std::to_string(cpu)) / "cache";
        for (int index = 0;; ++index) {
            const std::filesystem::path cache = caches / ("index" + std::to_string(index));
            const int level = first_word<int>(cache / "level");
            if (level == 0) break;
            const std::string shared = std::to_string(level) + " " + first_word<std::string>(cache / "shared_cpu_list");
            if (level > 1 && seen.insert(shared).second) kibibytes += first_word<std::int64_t>(cache / "size");
        }
    }
    return kibibytes << 10;
}

}  // namespace pvtune::cpu
