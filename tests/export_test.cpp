// Files of an export: safetensors as our own reader, which checks them in full, and others want them; folders that
// appear whole or not at all.
#include "host/export/partial_folder.h"
#include "host/model/aqlm_checkpoint.h"
#include "io/partial_file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "tests/files.h"

#include <cstring>
#include <filesystem>

namespace pvtune {
namespace {

using namespace testing;
namespace fs = std::filesystem;

SafetensorsEntry entry(const std::string& name, const std::string& type, std::int64_t size,
                       const std::vector<std::int64_t>& shape) {
    std::int64_t count = 1;
    for (const auto extent : shape) count *= extent;
    return {name, type, shape, count * size};
}

std::vector<std::byte> pattern(const SafetensorsEntry& entry) {
    std::vector<std::byte> data(static_cast<std::size_t>(entry.bytes));
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 7 + entry.name.size());
    return data;
}

/// Odd counts of bytes before wider types; written in another order than they lie.
const std::vector<SafetensorsEntry> entries = {
    entry("codes", "I8", 1, {3, 5, 1}), entry("books", "F16", 2, {1, 7, 1, 1}), entry("words", "I32", 4, {3, 1}),
    entry("more.codes", "I8", 1, {1}),  entry("half", "BF16", 2, {3}),          entry("norm", "F32", 4, {5})};

void write_all(const std::string& folder, std::int64_t shard_bytes) {
    SafetensorsWriter writer(folder, folder, entries, shard_bytes);
    for (std::size_t i = entries.size(); i-- > 0;) writer.write(entries[i].name, pattern(entries[i]));
    std::int64_t bytes = 0;
    const std::int64_t said = writer.finish();
    for (const auto& file : fs::directory_iterator(folder)) {
        if (file.path().extension() == ".safetensors") bytes += static_cast<std::int64_t>(file.file_size());
    }
    EXPECT_EQ(said, bytes);
}

TEST(SafetensorsWriter, WhatIsReadIsWhatWasWrittenAndAligned) {
    for (const std::int64_t shard_bytes : {1000, 24, 1}) {
        const TemporaryFolder folder;
        write_all(folder.path(), shard_bytes);
        const SafetensorsFolder read(folder.path());
        EXPECT_EQ(read.names().size(), entries.size());
        for (const SafetensorsEntry& expected : entries) {
            EXPECT_EQ(read.info(expected.name).shape, expected.shape);
            ASSERT_EQ(read.info(expected.name).bytes(), expected.bytes);
            const auto data = pattern(expected);
            EXPECT_EQ(std::memcmp(read.data(expected.name), data.data(), data.size()), 0) << expected.name;
            // Files are mapped at whole pages.
            const auto address = reinterpret_cast<std::uintptr_t>(read.data(expected.name));
            EXPECT_EQ(address % static_cast<std::uintptr_t>(size_of(read.info(expected.name).dtype)), 0U);
        }
        EXPECT_EQ(fs::exists(folder.file("model.safetensors")), shard_bytes == 1000);
        EXPECT_EQ(fs::exists(folder.file("model.safetensors.index.json")), shard_bytes != 1000);
    }
}

TEST(SafetensorsWriter, RefusesWhatWouldLeaveHoles) {
    const TemporaryFolder folder;
    SafetensorsWriter writer(folder.path(), folder.path(), entries);
    writer.write("codes", pattern(entries[0]));
    EXPECT_THROW(writer.write("books", pattern(entries[0])), std::logic_error);
    EXPECT_THROW(writer.finish(), std::logic_error);
    EXPECT_THROW(SafetensorsWriter(folder.path(), folder.path(), {entries[0], entries[0]}), std::logic_error);
}

TEST(PartialFolder, AppearsWhole) {
    const TemporaryFolder folder;
    const std::string out = folder.file("out");
    {
        PartialFolder partial(out + "/");
        partial.write_text("a", "text");
        EXPECT_FALSE(fs::exists(out));
        EXPECT_ERROR(PartialFolder{out}, out, "another run");
    }
    EXPECT_TRUE(fs::is_empty(folder.path()));
    fs::create_directory(out + ".partial");  // of a run that was killed
    write_file(out + ".partial/left", "over");
    {
        PartialFolder partial(out);
        partial.write_text("a", "text");
        partial.commit();
    }
    EXPECT_EQ(read_file(out + "/a"), "text");
    EXPECT_FALSE(fs::exists(out + "/left"));
    EXPECT_FALSE(fs::exists(out + ".partial"));
    EXPECT_ERROR(check_free(out, true), out, "there already");
    EXPECT_ERROR(PartialFolder{folder.file("none") + "/x"}, "none/x", "make the folder first");
}

TEST(PartialFile, AppearsWhole) {
    const TemporaryFolder folder;
    const std::string out = folder.file("out");
    const std::string text = "text";
    const auto write = [&](PartialFile& file) { file.file().write(0, std::as_bytes(std::span<const char>(text))); };
    {
        PartialFile partial(out);
        write(partial);
        EXPECT_FALSE(fs::exists(out));
        EXPECT_ERROR(PartialFile{out}, out, "another run");
        EXPECT_EQ(read_file(out + ".partial"), text);
    }
    EXPECT_TRUE(fs::is_empty(folder.path()));
    write_file(out + ".partial", "left over of a run that was killed");
    {
        PartialFile partial(out);
        write(partial);
        partial.commit();
        write_file(out + ".partial", "another's");  // it may begin as soon as the name is free
    }
    EXPECT_EQ(read_file(out), text);
    fs::remove(out);
    {
        PartialFile partial(out + ".2");
        fs::rename(out + ".partial", out + ".2.partial");  // by somebody who took ours for a leftover
        EXPECT_ERROR(partial.commit(), out, "was removed or replaced");
    }
    EXPECT_FALSE(fs::exists(out + ".2"));
    fs::rename(out + ".2.partial", out + ".partial");
    EXPECT_EQ(read_file(out + ".partial"), "another's");
    EXPECT_ERROR(PartialFile{folder.file("none") + "/x"}, "none/x", "make the folder first");
    EXPECT_ERROR(PartialFile{folder.path()}, folder.path(), "is a folder");
}

TEST(AqlmCheckpoint, ConfigWithoutItsLayoutIsPlain) {
    std::string config = R"({"hidden_size":64,"quantization_config":{"quant_method":"aqlm","in_group_size":8,)"
                         R"("out_group_size":1,"num_codebooks":1,"nbits_per_codebook":16}})";
    const auto layout = take_aqlm_layout(config, "c.json");
    ASSERT_TRUE(layout);
    EXPECT_EQ(layout->representation, "vq");
    EXPECT_EQ(layout->code_bits, 16);
    EXPECT_EQ(config, R"({"hidden_size":64})");
    EXPECT_FALSE(take_aqlm_layout(config, "c.json"));
    std::string wide = R"({"quantization_config":{"quant_method":"aqlm","out_group_size":8}})";
    EXPECT_ERROR(take_aqlm_layout(wide, "c.json"), "c.json", "out_group_size");
}

}  // namespace
}  // namespace pvtune
