// What the store reader and writer do when things go wrong: every error by its message, every byte damaged, full disks.
#include "io/store.h"
#include "tests/files.h"
#include "tests/store_sample.h"

#include <hdf5.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

namespace pvtune {
namespace {

using testing::content_of;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

class StoreFailure : public ::testing::Test {
protected:
    /// Whatever went wrong, no id may stay behind.
    void TearDown() override { EXPECT_EQ(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL), 0); }

    void open(const std::string& kind = "weights") const { content_of(StoreReader(path, kind)); }
    /// A store changed by HDF5 itself.
    void change(const std::function<void(hid_t)>& action) const {
        testing::write_sample_store(path);
        const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
        H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
        const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, access);
        ASSERT_GE(file, 0);
        action(file);
        H5Fclose(file);
        H5Pclose(access);
    }

    TemporaryFolder folder;
    std::string path = folder.file("store.h5");
};

void write_integer(hid_t file, const char* name, std::int64_t value) {
    H5Adelete(file, name);
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &value);
    H5Aclose(attribute);
    H5Sclose(space);
}

void add_dataset(hid_t file, const std::vector<hsize_t>& extents, hid_t type, const std::function<void(hid_t)>& set) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    set(creation);
    const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
    const hid_t dataset = H5Dcreate2(file, "added", type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    EXPECT_GE(dataset, 0);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(creation);
}

TEST_F(StoreFailure, WhatIsNoStore) {
    EXPECT_ERROR(open(), path, "no such file: check the path");
    EXPECT_ERROR(StoreReader(folder.path(), ""), folder.path(), "is a folder");
    write_file(path, "");
    EXPECT_ERROR(open(), path, "is empty");
    write_file(path, "PK\3\4 this is something else, and longer than a superblock, if only by a little");
    EXPECT_ERROR(open(), path, "is not a store of pvtune (no HDF5 signature)");
    H5Fclose(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
    EXPECT_ERROR(open(), path, "old format");
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Fclose(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access));
    H5Pclose(access);
    EXPECT_ERROR(open(), path, "is not a store of pvtune (no format_version)");
    EXPECT_ERROR(StoreReader("/dev/null", ""), "/dev/null", "is no regular file");
}

TEST_F(StoreFailure, WrongKindVersionAndContent) {
    testing::write_sample_store(path);
    EXPECT_ERROR(open("tokens"), path, "is a weights file, expected tokens");
    const StoreReader reader(path, "weights");
    char buffer[200];
    EXPECT_ERROR(reader.read("tensors/other", buffer, 4), path, "holds no 'tensors/other'");
    EXPECT_ERROR(reader.read("tensors/codes", buffer, 4), path,
                 "'tensors/codes' is u8 [50, 4] (200 bytes), expected 4 bytes");
    reader.expect("tensors/codes", DType::u8, {50, 4});
    EXPECT_ERROR(reader.expect("tensors/codes", DType::u16, {50, 4}), path, "is u8 [50, 4], expected u16 [50, 4]");
    EXPECT_ERROR(reader.expect("tensors/codes", DType::u8, {4, 50}), path, "is u8 [50, 4], expected u8 [4, 50]");
    change([](hid_t file) { write_integer(file, "format_version", 7); });
    EXPECT_ERROR(open(), path, "written by a newer pvtune (format 7; this one reads up to 1): update pvtune");
    change([](hid_t file) { write_integer(file, "format_version", 0); });
    EXPECT_ERROR(open(), path, "is damaged (format 0)");
    change([](hid_t file) { write_integer(file, "kind", 3); });
    EXPECT_ERROR(open(), path, "attribute 'kind' of '/' is not a text");
}

TEST_F(StoreFailure, WhatHdf5WouldFollowOrLoad) {
    change([](hid_t file) { H5Lcreate_soft("/step", file, "soft", H5P_DEFAULT, H5P_DEFAULT); });
    EXPECT_ERROR(open(), path, "'/soft' is a soft or external link");
    change([](hid_t file) { H5Lcreate_external("/etc/x", "/a", file, "far", H5P_DEFAULT, H5P_DEFAULT); });
    EXPECT_ERROR(open(), path, "'/far' is a soft or external link");
    change([](hid_t file) { H5Lcreate_hard(file, "step", file, "again", H5P_DEFAULT, H5P_DEFAULT); });
    EXPECT_ERROR(open(), path, "is a second link to an object");
    change([](hid_t file) { H5Lcreate_hard(file, "/", file, "tensors/cycle", H5P_DEFAULT, H5P_DEFAULT); });
    EXPECT_ERROR(open(), path, "is a second link to an object");
    change([](hid_t file) {
        add_dataset(file, {4}, H5T_STD_U8LE, [](hid_t creation) { H5Pset_external(creation, "/etc/passwd", 0, 4); });
    });
    EXPECT_ERROR(open(), path, "dataset '/added' is not stored in chunks");
    change([](hid_t file) { add_dataset(file, {4}, H5T_STD_U8LE, [](hid_t) {}); });
    EXPECT_ERROR(open(), path, "dataset '/added' is not stored in chunks");
    const hsize_t chunk = 4;
    change([&](hid_t file) {
        add_dataset(file, {4}, H5T_STD_U8LE, [&](hid_t creation) {
            H5Pset_chunk(creation, 1, &chunk);
            H5Pset_shuffle(creation);
            H5Pset_fletcher32(creation);
        });
    });
    EXPECT_ERROR(open(), path, "has other filters than Fletcher-32");
    const auto checked = [&](hid_t creation) {
        H5Pset_chunk(creation, 1, &chunk);
        H5Pset_fletcher32(creation);
    };
    change([&](hid_t file) { add_dataset(file, {4}, H5T_STD_I8LE, checked); });
    EXPECT_ERROR(open(), path, "has a type of its own");
    change([&](hid_t file) { add_dataset(file, {4}, H5T_STD_U8LE, checked); });
    EXPECT_ERROR(open(), path, "dataset 'added' is incomplete");
    change([&](hid_t file) { add_dataset(file, {hsize_t{1} << 40}, H5T_IEEE_F64LE, checked); });
    EXPECT_ERROR(open(), path, "claims more data than the file holds");
    change([&](hid_t file) {
        add_dataset(file, {hsize_t{1} << 33, 2}, H5T_STD_U8LE, [](hid_t creation) {
            const hsize_t wide[] = {1 << 30, 1};
            H5Pset_chunk(creation, 2, wide);
            H5Pset_fletcher32(creation);
        });
    });
    EXPECT_ERROR(open(), path, "claims more data than the file holds");
}

TEST_F(StoreFailure, VariableLengthTextsAreRead) {
    change([](hid_t file) {
        const hid_t type = H5Tcopy(H5T_C_S1);
        H5Tset_size(type, H5T_VARIABLE);
        const hid_t space = H5Screate(H5S_SCALAR);
        const hid_t attribute = H5Acreate2(file, "note", type, space, H5P_DEFAULT, H5P_DEFAULT);
        const char* text = "added by hand";
        H5Awrite(attribute, type, &text);
        H5Aclose(attribute);
        H5Sclose(space);
        H5Tclose(type);
    });
    EXPECT_EQ(StoreReader(path, "weights").text("/", "note"), "added by hand");
}

/// Every damaged copy either gives the same content as the whole one or is an Error.
TEST_F(StoreFailure, TruncationsAndFlippedBytes) {
    testing::write_sample_store(path);
    const std::string good = read_file(path);
    const std::string content = content_of(StoreReader(path, "weights"));
    const auto survives = [&](const std::string& bytes) {
        write_file(path, bytes);
        try {
            const StoreReader reader(path, "weights");
            const std::string found = content_of(reader);
            reader.verify();
            EXPECT_TRUE(found == content);
            EXPECT_EQ(reader.text("/", "config"), R"({"model_type": "llama"})");
            return true;
        } catch (const Error& error) {
            const std::string text = error.what();
            EXPECT_TRUE(text.starts_with(path + ": ")) << text;
            EXPECT_EQ(text.find('\n'), std::string::npos) << text;
            return false;
        }
    };
    for (std::size_t length = 0; length < good.size(); length += length < 200 ? 1 : 13)
        EXPECT_FALSE(survives(good.substr(0, length))) << length;
    int survivors = 0;
    int flips = 0;
    for (std::size_t at = 0; at < good.size(); at += at < 200 ? 1 : 7) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ (flips % 2 == 0 ? 0x01 : 0xa5));
        survivors += survives(bad) ? 1 : 0;
        ++flips;
    }
    EXPECT_LT(survivors, flips * 3 / 4) << "unused space of a small store, but not more";
    EXPECT_TRUE(survives(good));
    EXPECT_TRUE(survives(good + "trailing"));
}

/// Where a chunk of a dataset lies in the file, with its checksum.
std::pair<std::size_t, std::size_t> chunk_in_file(const std::string& path, const char* dataset, hsize_t index) {
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t opened = H5Dopen2(file, dataset, H5P_DEFAULT);
    const hid_t space = H5Dget_space(opened);
    haddr_t address = 0;
    hsize_t size = 0, first[2] = {};
    unsigned filters = 0;
    EXPECT_GE(H5Dget_chunk_info(opened, space, index, first, &filters, &address, &size), 0);
    H5Sclose(space);
    H5Dclose(opened);
    H5Fclose(file);
    return {address, size};
}

/// Zeros have the checksum zero: a chunk that was lost with its own is found by the content hash.
TEST_F(StoreFailure, AChunkThatWasLostIsNotReadAsZeros) {
    constexpr std::int64_t rows = 5000, columns = 130;  // three chunks
    const std::vector<float> ones(rows * columns, 1.0F);
    const std::vector<float> zeros(rows * columns);
    {
        StoreWriter writer(path, "weights", "test");
        writer.write("ones", DType::f32, {rows, columns}, ones.data());
        writer.write("zeros", DType::f32, {rows, columns}, zeros.data());
        writer.commit();
    }
    std::vector<float> found(rows * columns);
    const auto bytes = static_cast<std::int64_t>(found.size() * sizeof(float));
    const std::string whole = read_file(path);
    for (hsize_t lost = 0; lost < 3; ++lost) {
        write_file(path, whole);
        const auto [address, size] = chunk_in_file(path, "ones", lost);
        write_file(path, whole.substr(0, address) + std::string(size, '\0') + whole.substr(address + size));
        EXPECT_ERROR(StoreReader(path, "weights").read("ones", found.data(), bytes), path, "content hash");
        int refused = 0;
        for (std::int64_t row = 0; row < rows; row += 100) {
            const StoreReader reader(path, "weights");
            try {
                reader.read_rows("ones", row, 100, found.data());
                EXPECT_EQ(std::count(found.begin(), found.begin() + 100 * columns, 1.0F), 100 * columns) << row;
            } catch (const Error&) {
                ++refused;
            }
        }
        EXPECT_NEAR(refused, 50.0 / 3, 2);
    }
    write_file(path, whole);
    const StoreReader reader(path, "weights");
    reader.read("zeros", found.data(), bytes);
    EXPECT_EQ(found, zeros);
    reader.read_rows("ones", 7, 1, found.data());
    EXPECT_EQ(found[0], 1.0F);
}

TEST_F(StoreFailure, AnAbandonedWriterLeavesTheOldFile) {
    write_file(path, "old");
    {
        StoreWriter writer(path, "weights", "test");
        writer.write("a", DType::u8, {3}, "abc");
        EXPECT_TRUE(std::filesystem::exists(path + ".partial"));
        EXPECT_ERROR(StoreWriter(path, "weights", "test"), path, "another run is writing it");
        EXPECT_THROW(writer.write("a", DType::u8, {3}, "abc"), std::logic_error);
        EXPECT_THROW(writer.write("a/b", DType::u8, {3}, "abc"), std::logic_error);
        EXPECT_THROW(writer.write("../b", DType::u8, {3}, "abc"), std::logic_error);
        EXPECT_THROW(writer.write("c", DType::u8, {-3}, "abc"), std::logic_error);
        EXPECT_THROW(writer.set_integer("b", "x", 1), std::logic_error);
        EXPECT_ERROR(writer.set_text("a", "x", std::string(70'000, 'x')), path, "more than the 60000");
        EXPECT_ERROR(writer.set_text("a", "x", std::string("a\0b", 3)), path, "zero byte");
    }
    EXPECT_EQ(read_file(path), "old");
    EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
    write_file(path + ".partial", std::string(100'000, 'x'));  // left by a run that was killed
    testing::write_sample_store(path);
    StoreReader(path, "weights").verify();
    EXPECT_LT(std::filesystem::file_size(path), 100'000U);
}

TEST_F(StoreFailure, ACommitTakesNoOtherFile) {
    StoreWriter writer(path, "weights", "test");
    writer.write("a", DType::u8, {3}, "abc");
    std::filesystem::remove(path + ".partial");
    write_file(path + ".partial", "another's");
    EXPECT_ERROR(writer.commit(), path, "was removed or replaced");
    EXPECT_EQ(read_file(path + ".partial"), "another's");
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(StoreFailure, AFileWrittenToWhileItIsRead) {
    testing::write_sample_store(path);
    const std::string content = read_file(path);
    const StoreReader reader(path, "weights");
    const std::string other = folder.file("other");
    write_file(other, content);
    std::filesystem::rename(other, path);  // in its place: what is open stays as it was
    reader.verify();
    const StoreReader again(path, "weights");
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::seconds(1));
    EXPECT_ERROR(again.verify(), path, "was written to while it was read");
}

TEST_F(StoreFailure, PlacesThatCannotBeWritten) {
    EXPECT_ERROR(StoreWriter(folder.path(), "weights", ""), folder.path(), "is a folder");
    const auto missing = folder.file("no/store.h5");
    EXPECT_ERROR(StoreWriter(missing, "weights", ""), missing,
                 "cannot be written (No such file or directory): make the folder first");
    EXPECT_ERROR(StoreWriter("", "weights", ""), "", "is empty");
    const auto endless = folder.file(std::string(300, 'x'));
    EXPECT_ERROR(StoreWriter(endless, "weights", ""), endless, "choose a shorter name");
    if (::geteuid() != 0) {
        std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_read);
        EXPECT_ERROR(StoreWriter(path, "weights", ""), path, "choose a folder that you may write to");
        std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_all);
    }
}

/// Runs in a child whose files may not grow beyond `limit`; 0 means that all was as it must be.
int write_within(const std::string& path, rlim_t limit) {
    const rlimit sizes = {limit, limit};
    ::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &sizes);
    const std::vector<float> data(1'000'000, 1.5F);
    for (int attempt = 0; attempt < 2; ++attempt) {
        bool thrown = false;
        try {
            StoreWriter writer(path, "weights", "test");
            writer.set_text("/", "config", "{}");
            for (int i = 0; i < 3; ++i) writer.write("t/" + std::to_string(i), DType::f32, {1000, 1000}, data.data());
            writer.commit();
        } catch (const Error& error) {
            thrown = std::string(error.what()).starts_with(path + ": cannot be written (File too large): raise");
        }
        if (!thrown) return 1;
        if (std::filesystem::exists(path + ".partial")) return 2;
        if (read_file(path) != "old") return 3;
    }
    return 0;
}

TEST_F(StoreFailure, FullDisk) {
    write_file(path, "old");
    const auto full = [&](rlim_t limit) {
        std::fflush(nullptr);
        const pid_t child = ::fork();
        if (child == 0) {
            const int result = write_within(path, limit);
            std::exit(result);  // with every clean-up at exit: it must neither hang nor crash
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        EXPECT_TRUE(WIFEXITED(status)) << "limit " << limit << ", signal " << WTERMSIG(status);
        EXPECT_EQ(WEXITSTATUS(status), 0) << "limit " << limit;
    };
    for (const rlim_t limit : {10, 5'000, 1'500'000, 4'000'100, 11'999'000}) full(limit);
}

}  // namespace
}  // namespace pvtune
