#include "host/eval/tokenizer_process.h"

#include "host/common/python.h"
#include "host/common/text.h"
#include "io/error.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

using Json = nlohmann::json;

struct Pipe {
    int read = -1;
    int write = -1;
};

Pipe make_pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0)
        throw Error(std::string("no pipe to the tokenizer: ") + std::strerror(errno));
    return {ends[0], ends[1]};
}

}  // namespace

TokenizerProcess::TokenizerProcess(const std::string& tokenizer) : tokenizer_(tokenizer) {
    if (access(tokenizer.c_str(), R_OK) != 0)
        throw Error(tokenizer + ": " + std::strerror(errno) + ": name the model's tokenizer.json");
    const std::string python = python_program();
    const std::string script = python_script("tokenizer_bridge.py");

    const Pipe request = make_pipe();
    const Pipe reply = make_pipe();
    const Pipe error = make_pipe();
    posix_spawn_file_actions_t actions{};
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, request.read, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, reply.write, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, error.write, STDERR_FILENO);
    std::array<std::string, 4> words{python, script, "--tokenizer", tokenizer};
    std::array<char*, 5> arguments{words[0].data(), words[1].data(), words[2].data(), words[3].data(), nullptr};
    const int failed = posix_spawn(&process_, python.c_str(), &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    for (const int end : {request.read, reply.write, error.write}) ::close(end);
    requests_.reset(fdopen(request.write, "w"));
    replies_.reset(fdopen(reply.read, "r"));
    errors_.reset(fdopen(error.read, "r"));
    if (failed != 0) {
        process_ = -1;
        throw Error(python + ": cannot be started (" + std::strerror(failed) + "): run `make setup`");
    }
}

TokenizerProcess::~TokenizerProcess() {
    requests_.reset();  // the end of its input ends the bridge
    replies_.reset();
    errors_.reset();
    if (process_ > 0) waitpid(process_, nullptr, 0);
}

void TokenizerProcess::fail_ended() {
    std::string said;
    std::array<char, 512> buffer{};
    while (std::fgets(buffer.data(), buffer.size(), errors_.get()) != nullptr) {
        // The last line of what it said is the error; a traceback may stand before it.
        if (!one_line(buffer.data()).empty()) said = one_line(buffer.data());
    }
    const std::string name = "tokenizer_bridge.py: ";
    if (said.starts_with(name)) said.erase(0, name.size());
    throw Error(said.empty() ? tokenizer_ + ": the tokenizer's process ended" : said);
}

std::string TokenizerProcess::ask(const std::string& request) {
    if (std::fputs((request + "\n").c_str(), requests_.get()) == EOF || std::fflush(requests_.get()) != 0) fail_ended();
    std::string line;
    for (int c = std::fgetc(replies_.get()); c != '\n'; c = std::fgetc(replies_.get())) {
        if (c == EOF) fail_ended();
        line += static_cast<char>(c);
    }
    return line;
}

namespace {

/// The member of a reply, which is an object; its "error" is thrown.
Json member(const std::string& reply, const std::string& tokenizer, const char* name) {
    const Json object = Json::parse(reply, nullptr, false);
    if (object.is_object() && object.contains("error"))
        throw Error(tokenizer + ": " + one_line(object["error"].dump()));
    if (!object.is_object() || !object.contains(name))
        throw Error(tokenizer + ": an answer that is none: " + one_line(reply));
    return object[name];
}

}  // namespace

std::vector<std::uint32_t> TokenizerProcess::encode(const std::string& text) {
    const Json request{{"encode", text}};
    return member(ask(request.dump(-1, ' ', true, Json::error_handler_t::replace)), tokenizer_, "tokens")
        .get<std::vector<std::uint32_t>>();
}

std::string TokenizerProcess::decode(const std::vector<std::uint32_t>& tokens) {
    return member(ask(Json{{"decode", tokens}}.dump()), tokenizer_, "text").get<std::string>();
}

}  // namespace pvtune
