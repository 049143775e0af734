#include "host/common/token_store.h"

#include "io/error.h"
#include "io/store.h"

#include <algorithm>

namespace pvtune {

TokenText read_tokens(const std::string& path, std::int64_t vocabulary, std::int64_t least, std::int64_t most) {
    const StoreReader store(path, "tokens");
    const TensorInfo info = store.info("/tokens");
    if (info.dtype != DType::u32 || info.shape.size() != 1) {
        throw Error(path + ": /tokens is not a list of u32: make it again with scripts/tokenize.py");
    }
    TokenText text;
    text.stored = info.shape[0];
    text.content_hash = store.content_hash();
    if (store.has_attribute("/tokens", "tokenizer")) text.tokenizer = store.text("/tokens", "tokenizer");
    if (store.has_attribute("/tokens", "tokenizer_hash")) text.tokenizer_hash = store.text("/tokens", "tokenizer_hash");
    if (store.has_attribute("/tokens", "vocabulary")) text.vocabulary = store.integer("/tokens", "vocabulary");
    if (text.stored < least) {
        throw Error(path + ": holds " + std::to_string(text.stored) + " tokens, fewer than one window of " +
                    std::to_string(least) + ": use a longer text or a smaller --ctx");
    }
    const std::int64_t count = most > 0 ? std::min(most, text.stored) : text.stored;
    text.tokens.resize(static_cast<std::size_t>(count));
    store.read_rows("/tokens", 0, count, text.tokens.data());
    const auto outside = std::find_if(text.tokens.begin(), text.tokens.end(), [&](std::uint32_t token) {
        return static_cast<std::int64_t>(token) >= vocabulary;
    });
    if (outside != text.tokens.end()) {
        throw Error(path + ": token " + std::to_string(*outside) + " at position " +
                    std::to_string(outside - text.tokens.begin()) + " is outside the model's vocabulary of " +
                    std::to_string(vocabulary) + ": tokenised with another tokenizer?");
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
