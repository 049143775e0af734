#include "host/common/token_store.h"

#include "host/common/text.h"
#include "io/error.h"
#include "io/store.h"

#include <xxhash.h>
#include <algorithm>
#include <filesystem>
#include <span>

namespace pvtune {

namespace {

/// The file, or the stores of a folder in the order of their names.
std::vector<std::string> shards_of(const std::string& path) {
    namespace fs = std::filesystem;
    if (!fs::is_directory(path)) return {path};
    std::vector<std::string> shards;
    for (const auto& entry : fs::directory_iterator(path)) {
        if (entry.path().extension() == ".h5") shards.push_back(entry.path());
    }
    std::sort(shards.begin(), shards.end());
    if (shards.empty()) {
        throw Error(path + ": a folder without a tokens file (*.h5): make them with scripts/prepare_data.py");
    }
    return shards;
}

/// Attributes and the number of tokens of one store.
TokenText read_header(const StoreReader& store) {
    const TensorInfo info = store.info("/tokens");
    if (info.dtype != DType::u32 || info.shape.size() != 1) {
        throw Error(store.path() + ": /tokens is not a list of u32: make it again with scripts/tokenize.py");
    }
    TokenText text;
    text.stored = info.shape[0];
    text.content_hash = store.content_hash();
    if (store.has_attribute("/tokens", "tokenizer")) text.tokenizer = store.text("/tokens", "tokenizer");
    if (store.has_attribute("/tokens", "tokenizer_hash")) text.tokenizer_hash = store.text("/tokens", "tokenizer_hash");
    if (store.has_attribute("/tokens", "vocabulary")) text.vocabulary = store.integer("/tokens", "vocabulary");
    return text;
}

/// Of all shards: that of a single one, else the hash of theirs.
std::string hash_of(const std::vector<std::string>& hashes) {
    if (hashes.size() == 1) return hashes.front();
    std::string all;
    for (const std::string& hash : hashes) all += hash;
    XXH128_canonical_t canonical{};
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(all.data(), all.size()));
    std::string hex;
    for (const unsigned char byte : canonical.digest) hex += format("%02x", byte);
    return hex;
}

void check_vocabulary(const std::string& path, std::span<const std::uint32_t> tokens, std::int64_t vocabulary) {
    const auto outside = std::find_if(tokens.begin(), tokens.end(), [&](std::uint32_t token) {
        return static_cast<std::int64_t>(token) >= vocabulary;
    });
    if (outside == tokens.end()) return;
    throw Error(path + ": token " + std::to_string(*outside) + " at position " +
                std::to_string(outside - tokens.begin()) + " is outside the model's vocabulary of " +
                std::to_string(vocabulary) + ": tokenised with another tokenizer?");
}

}  // namespace

TokenText read_tokens(const std::string& path, std::int64_t vocabulary, std::int64_t least, std::int64_t most) {
    TokenText text;
    std::vector<std::string> hashes;
    for (const std::string& shard : shards_of(path)) {
        const StoreReader store(shard, "tokens");
        TokenText found = read_header(store);
        if (!hashes.empty() && found.tokenizer_hash != text.tokenizer_hash) {
            throw Error(shard + ": was made with another tokenizer than the files before it in " + path +
                        ": keep those of one tokenizer in a folder");
        }
        hashes.push_back(found.content_hash);
        const auto have = static_cast<std::int64_t>(text.tokens.size());
        const std::int64_t count = most > 0 ? std::min(most - have, found.stored) : found.stored;
        found.stored += text.stored;
        found.tokens = std::move(text.tokens);
        text = std::move(found);
        if (count == 0) continue;
        text.tokens.resize(static_cast<std::size_t>(have + count));
        store.read_rows("/tokens", 0, count, text.tokens.data() + have);
        check_vocabulary(shard, std::span(text.tokens).subspan(static_cast<std::size_t>(have)), vocabulary);
    }
    text.content_hash = hash_of(hashes);
    if (text.stored < least) {
        throw Error(path + ": holds " + std::to_string(text.stored) + " tokens, fewer than one window of " +
                    std::to_string(least) + ": use a longer text or a smaller --ctx");
    }
    // Models pad their vocabulary a little; a tokenizer that is far smaller, or larger, belongs to another model.
    if (text.vocabulary > vocabulary || (text.vocabulary > 0 && text.vocabulary < vocabulary - vocabulary / 8)) {
        text.warning = path + ": was tokenised with a vocabulary of " + std::to_string(text.vocabulary) +
                       ", the model has " + std::to_string(vocabulary) + ": is " + text.tokenizer +
                       " the model's own tokenizer?";
    }
    return text;
}

}  // namespace pvtune
