#include "host/common/python.h"

#include "host/common/text.h"
#include "io/error.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

namespace pvtune {

namespace {

namespace fs = std::filesystem;

/// The repository that holds build/pvtune (or build/<variant>/pvtune): the first folder above it with the scripts.
fs::path home() {
    std::error_code code;
    fs::path folder = fs::read_symlink("/proc/self/exe", code).parent_path();
    for (int up = 0; up < 4 && !folder.empty(); ++up, folder = folder.parent_path()) {
        if (fs::exists(folder / "scripts" / "tokenizer_bridge.py", code)) return folder;
    }
    return fs::read_symlink("/proc/self/exe", code).parent_path().parent_path();
}

std::string from_environment(const char* name, const fs::path& otherwise) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : otherwise.string();
}

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

/// A file without a name, to be read from its beginning: unlike a pipe it makes neither of its ends wait.
File memory_file(const std::string& content) {
    File file(fdopen(memfd_create("pvtune", MFD_CLOEXEC), "w+"),
              [](std::FILE* open) { return open == nullptr ? 0 : std::fclose(open); });
    if (!file || std::fwrite(content.data(), 1, content.size(), file.get()) != content.size() ||
        std::fflush(file.get()) != 0)
        throw Error(std::string("no memory for what a script reads: ") + std::strerror(errno));
    std::rewind(file.get());
    return file;
}

}  // namespace

std::string python_program() {
    std::string python = from_environment("PVTUNE_PYTHON", home() / "build" / "venv" / "bin" / "python");
    if (access(python.c_str(), X_OK) != 0)
        throw Error(python + ": no Python here: run `make setup`, or set PVTUNE_PYTHON");
    return python;
}

std::string python_script(const std::string& name) {
    std::string script = (fs::path(from_environment("PVTUNE_SCRIPTS", home() / "scripts")) / name).string();
    if (access(script.c_str(), R_OK) != 0)
        throw Error(script + ": not there: set PVTUNE_SCRIPTS to the folder scripts/ of pvtune");
    return script;
}

std::string run_python_script(const std::string& name, const std::vector<std::string>& arguments,
                              const std::string& input) {
    std::vector<std::string> words{python_program(), python_script(name)};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);

    const File requested = memory_file(input);
    const File replied = memory_file({});
    const File errors = memory_file({});
    posix_spawn_file_actions_t actions{};
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fileno(requested.get()), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fileno(replied.get()), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fileno(errors.get()), STDERR_FILENO);
    pid_t process = -1;
    const int failed = posix_spawn(&process, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) throw Error(words[0] + ": cannot be started (" + std::strerror(failed) + "): run `make setup`");
    int status = 0;
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
    }

    std::array<char, 4096> buffer{};
    if (status == 0) {
        std::string reply;
        std::rewind(replied.get());
        while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), replied.get()))
            reply.append(buffer.data(), count);
        return reply;
    }
    std::string said;
    std::rewind(errors.get());
    while (std::fgets(buffer.data(), buffer.size(), errors.get()) != nullptr) {
        if (!one_line(buffer.data()).empty()) said = one_line(buffer.data());
    }
    throw Error(said.empty() ? name + ": ended with status " + std::to_string(status) : said);
}

}  // namespace pvtune
