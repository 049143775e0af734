#include "host/eval/score_requests.h"

#include "host/common/text.h"
#include "host/eval/tokenizer_process.h"
#include "io/error.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

namespace pvtune {

namespace {

using Json = nlohmann::ordered_json;
using Tokens = std::vector<std::uint32_t>;

class Reader {
public:
    Reader(const std::string& path, const std::string& tokenizer, const ModelConfig& config, std::int64_t ctx,
           std::optional<std::uint32_t> begin)
        : path_(path), vocabulary_(config.vocabulary), ctx_(ctx), begin_(begin) {
        if (!tokenizer.empty()) tokenizer_ = std::make_unique<TokenizerProcess>(tokenizer);
    }

    ScoreFile read() {
        std::ifstream file(path_);
        if (!file) throw Error(path_ + ": " + std::strerror(errno) + ": name a file of JSON lines");
        std::string line;
        while (std::getline(file, line)) {
            ++number_;
            if (!one_line(line).empty()) add(line);
        }
        if (file.bad()) throw Error(path_ + ": cannot be read (" + std::strerror(errno) + ")");
        if (found_.requests.empty()) {
            throw Error(path_ + R"(: holds no request: write a line {"context": ..., "continuation": ...} each)");
        }
        return std::move(found_);
    }

private:
    [[noreturn]] void fail(const std::string& what) const {
        throw Error(path_ + ", line " + std::to_string(number_) + ": " + what);
    }

    void add(const std::string& line) {
        const Json object = Json::parse(line, nullptr, false);
        if (!object.is_object()) {
            fail(R"(no JSON object: write {"context": ..., "continuation": ...} on one line)");
        }
        for (const auto& [name, value] : object.items()) {
            if (name != "context" && name != "continuation" && name != "id")
                fail("unknown member '" + one_line(name) + "': use context, continuation and id");
        }
        for (const char* name : {"context", "continuation"}) {
            if (!object.contains(name)) fail(std::string("has no ") + name + ": give a list of tokens or a text");
        }
        Json id = object.value("id", Json(found_.requests.size()));
        if (!id.is_string() && !id.is_number_integer()) fail("id: expected a text or a whole number");

        auto [context, continuation] = tokens_of(object["context"], object["continuation"]);
        const bool begun = begin_ && object["context"].is_string();
        if (begun && (context.empty() || context.front() != *begin_)) context.insert(context.begin(), *begin_);
        if (continuation.empty()) fail("continuation: holds no token: give at least one");
        if (context.empty()) fail("context: holds no token: give at least one, such as the one that begins a text");
        const auto predicted = static_cast<std::int64_t>(continuation.size());
        if (predicted > ctx_) {
            fail("continuation: has " + std::to_string(predicted) + " tokens, more than --ctx " + std::to_string(ctx_) +
                 ": split it, or use a larger --ctx");
        }
        // The last token of the continuation is predicted but never read.
        const auto kept = std::min(context.size(), static_cast<std::size_t>(ctx_ + 1 - predicted));
        if (kept < context.size()) ++found_.cut;
        context.erase(context.begin(), context.end() - static_cast<std::ptrdiff_t>(kept));
        if (begun) context.front() = *begin_;
        context.insert(context.end(), continuation.begin(), continuation.end());
        found_.requests.push_back({std::move(context), predicted});
        found_.ids.push_back(std::move(id));
        found_.lines.push_back(number_);
    }

    std::pair<Tokens, Tokens> tokens_of(const Json& context, const Json& continuation) {
        if (!context.is_string() || !continuation.is_string()) {
            return {one(context, "context"), one(continuation, "continuation")};
        }
        // A tokenizer splits the whole text, spaces before words included, and the context's tokens come first.
        std::string before = context.get<std::string>();
        std::string after = continuation.get<std::string>();
        const std::size_t spaces = before.find_last_not_of(" \t\n\r") + 1;  // 0 for a text of spaces alone
        if (spaces > 0) {
            after = before.substr(spaces) + after;
            before.resize(spaces);
        }
        Tokens first = encode(before);
        Tokens whole = encode(before + after);
        if (whole.size() <= first.size()) return {std::move(first), encode(after)};
        const auto split = whole.begin() + static_cast<std::ptrdiff_t>(first.size());
        return {Tokens(whole.begin(), split), Tokens(split, whole.end())};
    }

    Tokens one(const Json& value, const std::string& name) {
        if (value.is_string()) return encode(value.get<std::string>());
        if (!value.is_array()) fail(name + ": expected a list of tokens or a text");
        Tokens tokens;
        for (const Json& token : value) {
            if (!token.is_number_unsigned()) fail(name + ": expected whole numbers, not " + one_line(token.dump()));
            tokens.push_back(checked(token.get<std::uint64_t>(), name));
        }
        return tokens;
    }

    Tokens encode(const std::string& text) {
        if (!tokenizer_) fail("holds a text: name the model's tokenizer.json with --tokenizer, or give tokens");
        Tokens tokens = tokenizer_->encode(text);
        for (const std::uint32_t token : tokens) checked(token, "the tokenizer's text");
        return tokens;
    }

    std::uint32_t checked(std::uint64_t token, const std::string& name) const {
        if (token >= static_cast<std::uint64_t>(vocabulary_)) {
            fail(name + ": token " + std::to_string(token) + " is outside the model's vocabulary of " +
                 std::to_string(vocabulary_) + ": use the model's own tokenizer");
        }
        return static_cast<std::uint32_t>(token);
    }

    std::string path_;
    std::int64_t vocabulary_;
    std::int64_t ctx_;
    std::optional<std::uint32_t> begin_;
    std::unique_ptr<TokenizerProcess> tokenizer_;
    std::int64_t number_ = 0;
    ScoreFile found_;
};

}  // namespace

ScoreFile read_score_requests(const std::string& path, const std::string& tokenizer, const ModelConfig& config,
                              std::int64_t ctx, std::optional<std::uint32_t> begin) {
    return Reader(path, tokenizer, config, ctx, begin).read();
}

}  // namespace pvtune
