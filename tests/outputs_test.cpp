// Files that runs write: none takes another's place, none is emptied by a run that may not have it.

#include "host/common/disk.h"
#include "host/common/run_log.h"
#include "host/common/text_file.h"
#include "tests/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace pvtune {
namespace {

namespace fs = std::filesystem;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

TEST(RunLog, IsEmptiedByNoOneWhileItIsWritten) {
    const TemporaryFolder folder;
    const std::string path = folder.file("run.jsonl");
    {
        RunLog log(path);
        log.write({{"step", 1}});
        for (const bool append : {false, true}) EXPECT_ERROR(RunLog(path, append), path, "another run is writing it");
        log.write({{"step", 2}});
    }
    EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n");
    RunLog(path, true).write({{"step", 3}});
    EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    RunLog(path).write({{"step", 1}});
    EXPECT_EQ(read_file(path), "{\"step\":1}\n");
}

TEST(RunLog, GoesThroughTheStreamThatHasItsFile) {
    const TemporaryFolder folder;
    const std::string path = folder.file("out");
    const int before = ::dup(STDOUT_FILENO);
    const int out = ::open(path.c_str(), O_WRONLY | O_CREAT, 0600);
    ::dup2(out, STDOUT_FILENO);
    const auto print = [](const std::string& text) {
        return ::write(STDOUT_FILENO, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    };
    const bool first = print("first\n");
    RunLog("/dev/stdout").write({{"step", 1}});
    const bool last = print("last\n");
    ::dup2(before, STDOUT_FILENO);
    ::close(before);
    ::close(out);
    EXPECT_TRUE(first && last);
    EXPECT_EQ(read_file(path), "first\n{\"step\":1}\nlast\n");
}

TEST(TextFile, IsWrittenByOneAtATime) {
    const TemporaryFolder folder;
    const std::string path = folder.file("answers.jsonl");
    const std::string large((3 << 20) + 1, 'x');
    {
        TextFile file(path);
        file.write("begun\n");
        file.write(large);
        EXPECT_ERROR(TextFile{path}, path, "another run is writing it");
        EXPECT_FALSE(fs::exists(path));
        file.write("\nend\n");
        file.commit();
    }
    EXPECT_EQ(read_file(path), "begun\n" + large + "\nend\n");
    EXPECT_FALSE(fs::exists(path + ".partial"));
}

TEST(Outputs, TakeNoInputsPlaceUnderAnyOfTheirNames) {
    const TemporaryFolder folder;
    const std::string out = folder.file("out.h5");
    for (const std::string name : {"out.h5", "out.h5.partial", "out.h5.checkpoint", "out.h5.checkpoint.partial"}) {
        const std::string file = folder.file(name);
        EXPECT_ERROR(check_outputs(out, folder.path() + "/./" + name, {}), "--log", "is a file of --out");
        write_file(file, "input");
        EXPECT_ERROR(check_outputs(out, "", {{"--model", file}}), "--out", "is the file of --model");
        EXPECT_ERROR(check_outputs("", file, {{"--requests", file}}), "--log", "is the file of --requests");
        fs::remove(file);
    }
    write_file(folder.file("model.h5"), "input");
    check_outputs(out, folder.file("run.jsonl"), {{"--model", folder.file("model.h5")}, {"--tokens", ""}});
    check_outputs("", "", {});
}

TEST(Outputs, GoWhereTheirRenameCanWork) {
    const TemporaryFolder folder;
    const std::string pipe = folder.file("pipe");
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    EXPECT_ERROR(check_folder(pipe), pipe, "no regular file");
    EXPECT_ERROR(check_folder(folder.path()), folder.path(), "is a folder");
    const std::string longest = folder.file(std::string(NAME_MAX - std::strlen(".checkpoint.partial"), 'x'));
    EXPECT_EQ(check_folder(longest), folder.path());
    EXPECT_ERROR(check_folder(longest + "x"), longest, "choose a shorter one");
    write_file(folder.file("there"), "");
    EXPECT_EQ(check_folder(folder.file("there")), folder.path());
}

TEST(Outputs, InFoldersOfAllKeepOtherUsersFiles) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    const TemporaryFolder folder;
    const std::string path = folder.file("there");
    write_file(path, "");
    ASSERT_EQ(::chmod(folder.path().c_str(), 01777), 0);
    constexpr uid_t somebody = 12345;
    ASSERT_EQ(::seteuid(somebody), 0);
    EXPECT_ERROR(check_folder(path), path, "another user's");
    EXPECT_EQ(check_folder(folder.file("new")), folder.path());
    ASSERT_EQ(::seteuid(0), 0);
}

}  // namespace
}  // namespace pvtune
