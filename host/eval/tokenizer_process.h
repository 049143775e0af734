#pragma once

#include <sys/types.h>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace pvtune {

/// A Hugging Face tokenizer in a process of its own: scripts/tokenizer_bridge.py, spoken to in lines of JSON.
class TokenizerProcess {
public:
    explicit TokenizerProcess(const std::string& tokenizer);
    ~TokenizerProcess();
    TokenizerProcess(const TokenizerProcess&) = delete;
    TokenizerProcess& operator=(const TokenizerProcess&) = delete;

    std::vector<std::uint32_t> encode(const std::string& text);
    std::string decode(const std::vector<std::uint32_t>& tokens);

private:
    std::string ask(const std::string& request);
    [[noreturn]] void fail_ended();

    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    using File = std::unique_ptr<std::FILE, Close>;

    std::string tokenizer_;
    pid_t process_ = -1;
    File requests_, replies_, errors_;
};

}  // namespace pvtune
