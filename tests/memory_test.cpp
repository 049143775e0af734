#include "host/common/memory.h"
#include "host/backend/cpu/caches.h"
#include "tests/files.h"

#include <sched.h>
#include <filesystem>

namespace pvtune {
namespace {

using testing::TemporaryFolder;
using testing::write_file;

TEST(Memory, OfACgroupCountsThePagesOfFilesAsFree) {
    const TemporaryFolder folder;
    EXPECT_EQ(available_to_cgroup(folder.path()), -1);
    write_file(folder.file("memory.max"), "max\n");
    write_file(folder.file("memory.current"), "900\n");
    EXPECT_EQ(available_to_cgroup(folder.path()), -1);
    write_file(folder.file("memory.max"), "1000\n");
    EXPECT_EQ(available_to_cgroup(folder.path()), 100);
    write_file(folder.file("memory.stat"), "anon 150\nfile 750\ninactive_file 500\nactive_file 200\n");
    EXPECT_EQ(available_to_cgroup(folder.path()), 800);
    write_file(folder.file("memory.current"), "2000\n");  // a limit that was lowered
    EXPECT_EQ(available_to_cgroup(folder.path()), 0);
}

TEST(Memory, PeakCountsWhatWasTouched) {
    const std::int64_t before = peak_memory();
    const std::vector<char> touched(std::size_t{64} << 20, 'x');
    EXPECT_GE(peak_memory(), std::max(before, std::int64_t{64} << 20)) << touched.back();
    EXPECT_GT(available_memory(), 0);
}

TEST(Memory, CachesOfThisProcessCountOnce) {
    const TemporaryFolder folder;
    EXPECT_EQ(cpu::cache_bytes(folder.path()), 0);
    cpu_set_t allowed;
    ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed) && cpu != CPU_SETSIZE - 1) continue;  // the last stands for others' CPUs
        const std::string own = std::to_string(cpu) + "\n";
        const std::string caches = folder.file("cpu" + std::to_string(cpu) + "/cache/");
        const auto write = [&](const std::string& index, const char* level, const char* size,
                               const std::string& shared) {
            std::filesystem::create_directories(caches + index);
            write_file(caches + index + "/level", level);
            write_file(caches + index + "/size", size);
            write_file(caches + index + "/shared_cpu_list", shared);
        };
        write("index0", "1\n", "32K\n", own);
        write("index1", "1\n", "32K\n", own);
        write("index2", "2\n", "1024K\n", own);
        write("index3", "3\n", "32768K\n", "0-1023\n");
    }
    EXPECT_EQ(cpu::cache_bytes(folder.path()), (CPU_COUNT(&allowed) + 32) << 20);
}

}  // namespace
}  // namespace pvtune
