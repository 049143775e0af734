// Token stores as text: one file, or a folder of shards.

#include "host/common/token_store.h"
#include "io/error.h"
#include "io/store.h"
#include "tests/files.h"

#include <gtest/gtest.h>

#include <numeric>

namespace pvtune {
namespace {

using testing::error_of;
using testing::TemporaryFolder;

class TokenStore : public ::testing::Test {
protected:
    /// Tokens first, first + 1, ... up to last - 1.
    std::string write(const std::string& name, std::uint32_t first, std::uint32_t last,
                      const std::string& tokenizer = "t") {
        std::vector<std::uint32_t> tokens(last - first);
        std::iota(tokens.begin(), tokens.end(), first);
        const std::string path = folder.file(name);
        StoreWriter writer(path, "tokens", "test");
        writer.write("/tokens", DType::u32, {static_cast<std::int64_t>(tokens.size())}, tokens.data());
        writer.set_text("/tokens", "tokenizer_hash", tokenizer);
        writer.set_integer("/tokens", "vocabulary", 100);
        writer.commit();
        return path;
    }

    std::string refusal(std::int64_t vocabulary = 100, std::int64_t least = 1) const {
        return error_of([&] { read_tokens(folder.path(), vocabulary, least); });
    }

    TemporaryFolder folder;
};

TEST_F(TokenStore, AFolderIsItsFilesInOrderOfTheirNames) {
    write("b.h5", 30, 50);
    write("a.h5", 0, 30);
    write("c.h5", 50, 60);
    std::vector<std::uint32_t> expected(60);
    std::iota(expected.begin(), expected.end(), 0U);
    const TokenText whole = read_tokens(folder.path(), 100, 60);
    EXPECT_EQ(whole.tokens, expected);
    EXPECT_EQ(whole.stored, 60);
    EXPECT_EQ(whole.tokenizer_hash, "t");
    for (const std::size_t most : {1U, 29U, 30U, 31U, 50U, 59U, 60U, 1000U}) {
        const TokenText first = read_tokens(folder.path(), 100, 1, static_cast<std::int64_t>(most));
        EXPECT_TRUE(std::equal(first.tokens.begin(), first.tokens.end(), expected.begin()));
        EXPECT_EQ(first.tokens.size(), std::min<std::size_t>(most, 60)) << most;
        EXPECT_EQ(first.stored, 60);
        EXPECT_EQ(first.content_hash, whole.content_hash);
    }
}

TEST_F(TokenStore, OneShardHasItsOwnHashAndSeveralHaveTheirs) {
    const std::string file = write("a.h5", 0, 30);
    EXPECT_EQ(read_tokens(folder.path(), 100, 1).content_hash, read_tokens(file, 100, 1).content_hash);
    write("b.h5", 30, 50);
    const std::string two = read_tokens(folder.path(), 100, 1).content_hash;
    EXPECT_EQ(two.size(), 32U);
    EXPECT_NE(two, read_tokens(file, 100, 1).content_hash);
    write("b.h5", 31, 51);
    EXPECT_NE(read_tokens(folder.path(), 100, 1).content_hash, two);
}

TEST_F(TokenStore, Refusals) {
    EXPECT_NE(refusal().find("a folder without a tokens file"), std::string::npos);
    write("a.h5", 0, 30);
    write("b.h5", 30, 50);
    EXPECT_NE(refusal(100, 51).find("holds 50 tokens"), std::string::npos);
    const std::string outside = refusal(40);
    EXPECT_NE(outside.find("b.h5: token 40 at position 10 is outside"), std::string::npos) << outside;
    write("c.h5", 0, 5, "another");
    EXPECT_NE(refusal().find("c.h5: was made with another tokenizer"), std::string::npos);
}

}  // namespace
}  // namespace pvtune
