#include "io/store.h"
#include "tests/files.h"
#include "tests/store_sample.h"

#include <hdf5.h>

#include <cstring>
#include <numeric>

namespace pvtune {
namespace {

using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

std::vector<unsigned char> pattern(std::int64_t bytes) {
    std::vector<unsigned char> data(static_cast<std::size_t>(bytes));
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<unsigned char>(i * 131 + i / 256 * 7 + 3);
    return data;
}

std::vector<unsigned char> read_all(const StoreReader& reader, const std::string& name) {
    std::vector<unsigned char> data(static_cast<std::size_t>(reader.info(name).bytes()));
    reader.read(name, data.data(), static_cast<std::int64_t>(data.size()));
    return data;
}

TEST(Store, RoundTripOfEveryDtypeAndShape) {
    const TemporaryFolder folder;
    const auto path = folder.file("all.h5");
    const DType dtypes[] = {DType::f32, DType::bf16, DType::f16, DType::f64, DType::u8,
                            DType::u16, DType::u32,  DType::i32, DType::i64};
    const std::vector<std::vector<std::int64_t>> shapes = {
        {}, {0}, {1}, {7}, {3, 0, 2}, {5, 3}, {1, 1, 1, 1}, {2, 1, 2, 1, 2, 1, 2, 3}, {300'001}, {3, 700'003}};
    StoreWriter writer(path, "weights", "test");
    for (const DType dtype : dtypes) {
        for (std::size_t i = 0; i < shapes.size(); ++i) {
            const TensorInfo info{dtype, shapes[i]};
            writer.write(std::string(name_of(dtype)) + "/" + std::to_string(i), dtype, shapes[i],
                         pattern(info.bytes()).data());
        }
    }
    const auto hash = writer.commit();
    EXPECT_EQ(hash.size(), 32U);
    EXPECT_FALSE(std::filesystem::exists(path + ".partial"));

    const StoreReader reader(path, "weights");
    EXPECT_EQ(reader.content_hash(), hash);
    for (const DType dtype : dtypes) {
        for (std::size_t i = 0; i < shapes.size(); ++i) {
            const auto name = std::string(name_of(dtype)) + "/" + std::to_string(i);
            const auto info = reader.info(name);
            EXPECT_EQ(info.dtype, dtype) << name;
            EXPECT_EQ(info.shape, shapes[i]) << name;
            EXPECT_EQ(read_all(reader, name), pattern(info.bytes())) << name;
        }
    }
    reader.verify();
}

TEST(Store, ReadsRows) {
    const TemporaryFolder folder;
    const auto path = folder.file("rows.h5");
    std::vector<std::uint32_t> tokens(900'000);
    std::iota(tokens.begin(), tokens.end(), 0U);
    StoreWriter writer(path, "tokens", "test");
    writer.write("flat", DType::u32, {900'000}, tokens.data());
    writer.write("table", DType::u32, {300'000, 3}, tokens.data());
    writer.write("scalar", DType::u32, {}, tokens.data());
    writer.commit();

    const StoreReader reader(path, "tokens");
    std::vector<std::uint32_t> row(1000);
    for (const std::int64_t first : {0, 262'000, 899'000}) {
        reader.read_rows("flat", first, 1000, row.data());
        EXPECT_EQ(row.front(), first);
        EXPECT_EQ(row.back(), first + 999);
    }
    reader.read_rows("/table", 299'999, 1, row.data());
    EXPECT_EQ(row[2], 899'999U);
    reader.read_rows("table", 300'000, 0, row.data());
    EXPECT_ERROR(reader.read_rows("table", 299'999, 2, row.data()), path, "rows 299999 to 300001 are needed");
    EXPECT_ERROR(reader.read_rows("table", -1, 2, row.data()), path, "rows -1 to 1 are needed");
    EXPECT_ERROR(reader.read_rows("scalar", 0, 1, row.data()), path, "shape []");
}

TEST(Store, AttributesAndGroups) {
    const TemporaryFolder folder;
    const auto path = folder.file("attributes.h5");
    const std::string long_text(60'000, 'x');
    const float value = 1;
    StoreWriter writer(path, "weights", "pvtune import \"Grüße\"");
    writer.create_group("a/b");
    writer.create_group("/a/b");
    writer.write("a/c", DType::f32, {1}, &value);
    writer.set_text("/", "config", "{}");
    writer.set_text("/", "config", "{\"a\": 1}");
    writer.set_text("a", "empty", "");
    writer.set_text("a/b", "long", long_text);
    writer.set_integer("/a/c", "minus", -5'000'000'000);
    writer.set_real("a/c", "pi", 3.25);
    for (int i = 0; i < 100; ++i) writer.set_integer("a/b", "n" + std::to_string(i), i);
    writer.commit();

    const StoreReader reader(path, "");
    EXPECT_EQ(store_kind(path), "weights");
    EXPECT_EQ(reader.command(), "pvtune import \"Grüße\"");
    EXPECT_EQ(reader.text("/", "config"), "{\"a\": 1}");
    EXPECT_EQ(reader.text("a", "empty"), "");
    EXPECT_EQ(reader.text("a/b", "long"), long_text);
    EXPECT_EQ(reader.integer("a/c", "minus"), -5'000'000'000);
    EXPECT_EQ(reader.integer("a/b", "n99"), 99);
    EXPECT_EQ(reader.real("a/c", "pi"), 3.25);
    EXPECT_EQ(reader.children("/"), std::vector<std::string>({"a"}));
    EXPECT_EQ(reader.children("a"), std::vector<std::string>({"b", "c"}));
    EXPECT_TRUE(reader.is_group("a/b"));
    EXPECT_FALSE(reader.is_group("a/c"));
    EXPECT_TRUE(reader.has("a/c"));
    EXPECT_FALSE(reader.has("a/d"));
    EXPECT_FALSE(reader.has("a//c"));
    EXPECT_TRUE(reader.has_attribute("a", "empty"));
    EXPECT_FALSE(reader.has_attribute("a", "full"));
    EXPECT_ERROR(reader.text("a", "full"), path, "attribute 'full' of 'a' is missing");
    EXPECT_ERROR(reader.integer("a", "empty"), path, "is not a whole number");
    EXPECT_ERROR(reader.children("a/c"), path, "is a dataset, expected a group");
    EXPECT_ERROR(reader.info("a/b"), path, "is a group, expected a dataset");
    reader.verify();
}

TEST(Store, HashIgnoresOrderAndCommandOnly) {
    const TemporaryFolder folder;
    const auto path = folder.file("hash.h5");
    const auto hash = [&](bool swapped, const std::string& command, double scale, std::int64_t width, DType dtype) {
        const auto data = pattern(64);
        StoreWriter writer(path, "weights", command);
        const std::vector<std::int64_t> shape = {width, 8 / width};
        if (swapped) writer.write("t/b", dtype, shape, data.data());
        writer.write("t/a", DType::u16, {8}, data.data());
        if (!swapped) writer.write("t/b", dtype, shape, data.data());
        writer.set_real("t/b", "scale", scale);
        return writer.commit();
    };
    const auto reference = hash(false, "one", 1.0, 2, DType::bf16);
    const auto bytes = read_file(path);
    EXPECT_EQ(hash(false, "one", 1.0, 2, DType::bf16), reference);
    EXPECT_TRUE(read_file(path) == bytes) << "the same content gives the same file";
    EXPECT_EQ(hash(true, "one", 1.0, 2, DType::bf16), reference);
    EXPECT_EQ(hash(false, "two", 1.0, 2, DType::bf16), reference);
    EXPECT_NE(hash(false, "one", 2.0, 2, DType::bf16), reference);
    EXPECT_NE(hash(false, "one", 1.0, 4, DType::bf16), reference);
    EXPECT_NE(hash(false, "one", 1.0, 2, DType::f16), reference);
}

/// Changes a file with HDF5 itself, so that every checksum is right and only the content hash is not.
TEST(Store, VerifySeesWhatChecksumsDoNot) {
    const TemporaryFolder folder;
    const auto path = folder.file("changed.h5");
    testing::write_sample_store(path);
    StoreReader(path, "weights").verify();
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t dataset = H5Dopen2(file, "/tensors/codes", H5P_DEFAULT);
    std::vector<std::uint8_t> codes(200, 1);
    ASSERT_GE(H5Dwrite(dataset, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, codes.data()), 0);
    H5Dclose(dataset);
    H5Fclose(file);
    const StoreReader reader(path, "weights");
    EXPECT_EQ(read_all(reader, "tensors/codes")[0], 1);
    EXPECT_ERROR(reader.verify(), path, "is damaged (its content does not give its content hash");
}

TEST(Store, HalvesAreFloatsForHdf5) {
    const TemporaryFolder folder;
    const auto path = folder.file("halves.h5");
    const float values[] = {0.0F, -1.5F, 3.0e38F, 1.0e-38F, 65504.0F};
    bf16 wide[5];
    f16 narrow[5];
    for (int i = 0; i < 5; ++i) {
        wide[i] = to_bf16(values[i]);
        narrow[i] = static_cast<f16>(values[i]);
    }
    StoreWriter writer(path, "weights", "test");
    writer.write("wide", DType::bf16, {5}, wide);
    writer.write("narrow", DType::f16, {5}, narrow);
    writer.commit();
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    float converted[5];
    for (const std::string name : {"wide", "narrow"}) {
        const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
        ASSERT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, converted), 0);
        H5Dclose(dataset);
        for (int i = 0; i < 5; ++i)
            EXPECT_EQ(converted[i], name == "wide" ? to_float(wide[i]) : to_float(narrow[i])) << name << " " << i;
    }
    H5Fclose(file);
}

}  // namespace
}  // namespace pvtune
