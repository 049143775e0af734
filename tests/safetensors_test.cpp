#include "io/safetensors.h"
#include "tests/files.h"

#include <cstring>

namespace pvtune {
namespace {

using testing::TemporaryFolder;
using testing::write_file;

/// A file of this header and data, as they are.
std::string pack(const std::string& header, const std::string& data) {
    const std::uint64_t length = header.size();
    std::string file(sizeof length, '\0');
    std::memcpy(file.data(), &length, sizeof length);
    return file + header + data;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, int begin, int end) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
           std::to_string(begin) + "," + std::to_string(end) + "]}";
}

class Safetensors : public ::testing::Test {
protected:
    std::string refuse(const std::string& content) const {
        write_file(file, content);
        const std::string text = testing::error_of([&] { const SafetensorsFolder opened(file); });
        EXPECT_TRUE(text.starts_with(file + ": ")) << text;
        return text;
    }
    std::string refuse_header(const std::string& header, const std::string& data = "") const {
        return refuse(pack("{" + header + "}", data));
    }

    TemporaryFolder folder;
    std::string file = folder.file("model.safetensors");
};

#define EXPECT_HAS(expression, words)                             \
    do {                                                          \
        const std::string text_ = (expression);                   \
        EXPECT_NE(text_.find(words), std::string::npos) << text_; \
    } while (false)

TEST_F(Safetensors, ReadsEveryDtypeAndShape) {
    struct Case {
        const char* text;
        DType dtype;
    };
    const Case cases[] = {{"F32", DType::f32}, {"BF16", DType::bf16}, {"F16", DType::f16}, {"F64", DType::f64},
                          {"U8", DType::u8},   {"U16", DType::u16},   {"U32", DType::u32}, {"I32", DType::i32},
                          {"I64", DType::i64}, {"I8", DType::u8},     {"I16", DType::u16}};
    for (const auto& [text, dtype] : cases) {
        const int size = static_cast<int>(size_of(dtype));
        std::string data;
        for (int i = 0; i < 7 * size; ++i) data += static_cast<char>('a' + i % 26);
        write_file(file,
                   pack("{\"__metadata__\":{\"format\":\"pt\"}," + entry("m", text, "[2,3]", size, 7 * size) + "," +
                            entry("none", text, "[4,0]", size, size) + "," + entry("s", text, "[]", 0, size) + "}   ",
                        data));
        const SafetensorsFolder opened(folder.path());
        EXPECT_EQ(opened.names(), std::vector<std::string>({"m", "none", "s"}));
        EXPECT_TRUE(opened.has("m"));
        EXPECT_FALSE(opened.has("__metadata__"));
        EXPECT_EQ(opened.info("m").dtype, dtype);
        EXPECT_EQ(opened.info("m").shape, std::vector<std::int64_t>({2, 3}));
        EXPECT_EQ(opened.info("s").elements(), 1);
        EXPECT_EQ(opened.info("none").bytes(), 0);
        EXPECT_EQ(opened.file_of("m"), file);
        EXPECT_EQ(std::memcmp(opened.data("s"), data.data(), static_cast<std::size_t>(size)), 0);
        EXPECT_EQ(std::memcmp(opened.data("m"), data.data() + size, static_cast<std::size_t>(6 * size)), 0);
        EXPECT_ERROR(opened.info("x"), folder.path(), "has no tensor 'x'");
    }
    write_file(file, pack("{}", ""));
    EXPECT_TRUE(SafetensorsFolder(file).names().empty());
}

TEST_F(Safetensors, RefusesDamagedHeaders) {
    const auto missing = folder.file("x.safetensors");
    EXPECT_ERROR(SafetensorsFolder{missing}, missing, "no such file");
    EXPECT_ERROR(SafetensorsFolder{folder.path()}, folder.path(), "neither model.safetensors nor");
    EXPECT_HAS(refuse(""), "is empty");
    EXPECT_HAS(refuse("abc"), "truncated inside the length of its header");
    EXPECT_HAS(refuse("<html><body>not found</body></html>"), "is not a safetensors file");
    EXPECT_HAS(refuse(pack("{}", "").substr(0, 9)), "truncated inside its header");
    EXPECT_HAS(refuse(pack("", "")), "is not JSON");
    EXPECT_HAS(refuse(pack("[]", "")), "not a JSON object");
    EXPECT_HAS(refuse(pack("{\"a\": \xff\xfe}", "")), "is not JSON");
    EXPECT_HAS(refuse(pack(std::string(1'000'000, '['), "")), "nested too deeply");
    EXPECT_HAS(refuse_header("\"a\":[1]"), "is not described by an object");
    EXPECT_HAS(refuse_header("\"a\":{}"), "has no dtype");
    EXPECT_HAS(refuse_header(entry("a", "F8_E4M3", "[1]", 0, 1), "x"), "dtype 'F8_E4M3', which pvtune does not read");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[-1]", 0, 1), "x"), "no usable shape");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[1.0]", 0, 1), "x"), "no usable shape");
    EXPECT_HAS(refuse_header(entry("a", "U8", "3", 0, 1), "x"), "no usable shape");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[4294967296,4294967296,2]", 0, 1), "x"), "impossibly large");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[0,18446744073709551615]", 0, 0)), "impossibly large");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[1]", 1, 0), "x"), "no usable data_offsets");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[1]", -1, 0), "x"), "no usable data_offsets");
    EXPECT_HAS(refuse_header(R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0]})", "x"), "no usable data_offsets");
    EXPECT_HAS(refuse_header(R"("a":{"dtype":"U8","shape":[1]})", "x"), "no usable data_offsets");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[2]", 0, 2), "x"), "ends at byte 2 of the data, which has 1");
    EXPECT_HAS(refuse_header(entry("a", "U16", "[2]", 0, 2), "xx"), "has 2 bytes, its shape and dtype need 4");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[2]", 0, 2) + "," + entry("b", "U8", "[2]", 1, 3), "abc"), "overlaps");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[1]", 1, 2), "xx"), "a hole before tensor 'a'");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[1]", 0, 1), "xx"), "1 bytes beyond the last tensor");
    EXPECT_HAS(refuse_header(entry("a", "U8", "[1]", 0, 1) + "," + entry("a", "U8", "[1]", 0, 1), "x"),
               "the name 'a' appears twice");
    EXPECT_HAS(refuse_header(R"("a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]})", "x"),
               "the name 'dtype' appears twice");
}

TEST_F(Safetensors, AFileWrittenToWhileItIsRead) {
    const auto path = folder.file("model.safetensors");
    write_file(path, pack("{" + entry("a", "U8", "[1]", 0, 1) + "}", "A"));
    const SafetensorsFolder opened(folder.path());
    opened.check_unchanged();
    write_file(folder.file("new"), testing::read_file(path));
    std::filesystem::rename(folder.file("new"), path);  // in its place: what is mapped stays as it was
    opened.check_unchanged();
    const SafetensorsFolder again(folder.path());
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::seconds(1));
    EXPECT_ERROR(again.check_unchanged(), path, "was written to while it was read");
}

TEST_F(Safetensors, Shards) {
    const auto index = folder.file("model.safetensors.index.json");
    const auto map = [&](const std::string& entries) { write_file(index, "{\"weight_map\":{" + entries + "}}"); };
    const auto refuse_map = [&](const std::string& entries) {
        map(entries);
        return testing::error_of([&] { const SafetensorsFolder opened(folder.path()); });
    };
    write_file(folder.file("one"), pack("{" + entry("a", "U8", "[1]", 0, 1) + "}", "A"));
    write_file(folder.file("two"),
               pack("{" + entry("b", "U8", "[1]", 0, 1) + "," + entry("c", "U8", "[1]", 1, 2) + "}", "BC"));
    map(R"("a":"one","b":"two","c":"two")");
    const SafetensorsFolder opened(folder.path());
    EXPECT_EQ(opened.names(), std::vector<std::string>({"a", "b", "c"}));
    EXPECT_EQ(static_cast<char>(*opened.data("c")), 'C');
    EXPECT_EQ(opened.file_of("a"), folder.file("one"));
    EXPECT_HAS(refuse_map(R"("a":"three")"), folder.file("three") + ": no such file, but ");
    EXPECT_HAS(refuse_map(R"("a":"two")"), folder.file("two") + ": has no tensor 'a', but ");
    EXPECT_HAS(refuse_map(R"("a":"one","a":"two")"), "the name 'a' appears twice");
    for (const char* name : {"\"../one\"", "\"/etc/passwd\"", "\"..\"", "\".\"", "\"\"", "\"one\\u0000\"", "3"})
        EXPECT_HAS(refuse_map(std::string("\"a\":") + name), "is no plain file name");
    for (const char* content : {"", "{", "[]", "{}", "{\"weight_map\":[]}", "{\"weight_map\":null}"}) {
        write_file(index, content);
        EXPECT_ERROR(SafetensorsFolder{folder.path()}, index, "is damaged");
    }
}

/// Every truncation is an Error; every flipped byte is an Error or leaves tensors that lie inside the file.
TEST_F(Safetensors, TruncationsAndFlippedBytes) {
    std::string data;
    for (int i = 0; i < 100; ++i) data += static_cast<char>(i * 3);
    const std::string good =
        pack("{\"__metadata__\":{\"format\":\"pt\"}," + entry("a", "BF16", "[3,4]", 0, 24) + "," +
                 entry("b", "F32", "[19]", 24, 100) + "," + entry("c", "I64", "[0]", 100, 100) + "}",
             data);
    const auto survives = [&](const std::string& bytes) {
        write_file(file, bytes);
        try {
            const SafetensorsFolder opened(file);
            unsigned sum = 0;
            for (const auto& name : opened.names()) {
                const auto size = opened.info(name).bytes();
                for (std::int64_t i = 0; i < size; ++i) sum += static_cast<unsigned>(opened.data(name)[i]);
            }
            EXPECT_LE(sum, 255U * bytes.size());
            return true;
        } catch (const Error& error) {
            EXPECT_TRUE(std::string(error.what()).starts_with(file + ": ")) << error.what();
            return false;
        }
    };
    EXPECT_TRUE(survives(good));
    for (std::size_t length = 0; length < good.size(); ++length)
        EXPECT_FALSE(survives(good.substr(0, length))) << length;
    for (std::size_t at = 0; at < good.size() - data.size(); ++at) {
        for (int flip = 1; flip < 256; flip += at < 8 ? 5 : 37) {
            std::string bad = good;
            bad[at] = static_cast<char>(bad[at] ^ flip);
            survives(bad);
        }
    }
}

}  // namespace
}  // namespace pvtune
