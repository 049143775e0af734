#include "host/commands/commands.h"
#include "io/error.h"

#include <fcntl.h>
#include <unistd.h>
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>

namespace {

constexpr const char* version = "pvtune 0.1.0";

int program(int argc, char** argv) {
    using namespace pvtune;
    CLI::App app{"Compress a language model to 1-4 bits a weight and PV-tune the compressed weights, codes included."};
    app.name("pvtune");
    app.set_version_flag("--version", version);
    app.require_subcommand(1);
    app.failure_message(CLI::FailureMessage::simple);
    app.footer(
        "`pvtune COMMAND --help` explains a command with an example.\n"
        "From a model to 2 bits: import, quantize, tune; eval and generate show what it is worth.");
    CommonOptions common;
    for (int i = 0; i < argc; ++i) common.command_line += std::string(i > 0 ? " " : "") + argv[i];

    add_import_command(app, common);
    add_quantize_command(app, common);
    add_tune_command(app, common);
    add_eval_command(app, common);
    add_score_command(app, common);
    add_generate_command(app, common);
    add_inspect_command(app, common);
    add_export_command(app, common);
    add_bench_command(app, common);
    add_demo_convergence_command(app, common);
    add_common_flags(app, common);
    add_completion_command(app);
    add_manual_command(app);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
        const std::string name = argc > 1 ? argv[1] : "";
        const bool known =
            !app.get_subcommands([&](const CLI::App* command) { return command->get_name() == name; }).empty();
        std::string what = error.what();
        // CLI11 looks for missing flags first; an unknown one tells more.
        const std::vector<std::string> unknown = app.remaining(true);
        if (!unknown.empty()) what = "there is no flag or argument '" + unknown.front() + "'";
        if (!known && !name.empty() && !name.starts_with("-")) what = "there is no command '" + name + "'";
        throw Error(what + " (see pvtune " + (known ? name + " " : "") + "--help)");
    }
    return 0;
}

/// By default GCC's OpenMP threads spin for some 20 ms at every barrier before they sleep, which makes a run several
/// times slower where other programs use the same cores. The runtime reads its settings before main(), so the program
/// starts itself once more with a shorter spin, unless the user has chosen one.
void shorten_spinning(char** argv) {
    if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
    setenv("GOMP_SPINCOUNT", "10000", 1);
    std::error_code ignored;
    execv(std::filesystem::read_symlink("/proc/self/exe", ignored).c_str(), argv);
}

/// Signals that would end a run before it has saved its state show as failed writes instead: a reader of standard error
/// that is gone (`| tee` dies of the same Ctrl-C), a file beyond `ulimit -f`.
void ignore_signals_of_writes() {
    for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);
}

/// Tensors of safetensors files are read where they are mapped: pages that are gone are no failed read.
void report_lost_pages() {
    std::signal(SIGBUS, [](int) {
        constexpr char text[] =
            "\npvtune: an input file was cut short, or its disk failed, while it was read: run it again\n";
        constexpr int status_user = 2;
        [[maybe_unused]] const auto told = write(STDERR_FILENO, text, sizeof text - 1);
        _exit(status_user);
    });
}

/// A file that takes the place of a closed standard stream would get the messages.
void open_standard_streams() {
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (fcntl(stream, F_GETFD) < 0) open("/dev/null", O_RDWR);
    }
}

}  // namespace

int main(int argc, char** argv) {
    open_standard_streams();
    ignore_signals_of_writes();
    report_lost_pages();
    shorten_spinning(argv);
    return pvtune::run_guarded(program, argc, argv);
}
