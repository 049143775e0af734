#include "host/common/memory.h"
#include "tests/files.h"

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

}  // namespace
}  // namespace pvtune
