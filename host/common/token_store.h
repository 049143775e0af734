#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pvtune {

/// A tokenised text.
struct TokenText {
    std::vector<std::uint32_t> tokens;
    std::int64_t stored = 0;      ///< tokens in the file, of which `tokens` may be the first part
    std::int64_t vocabulary = 0;  ///< of the tokenizer
    std::string tokenizer;        ///< its file
    std::string tokenizer_hash;
    std::string content_hash;
    std::string warning;  ///< a line for the user where the tokenizer looks like another model's, else empty
};

/// Reads a tokens store, or those of a folder one after the other in the order of their names (the first `most` tokens;
/// 0: all). Throws Error when there are fewer than `least` tokens or one
/// is outside the model's vocabulary.
TokenText read_tokens(const std::string& path, std::int64_t vocabulary, std::int64_t least, std::int64_t most = 0);

}  // namespace pvtune
