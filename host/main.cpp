#include "host/commands/commands.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
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
    add_generate_command(app, common);
    add_inspect_command(app, common);
    add_bench_command(app, common);
    add_common_flags(app, common);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
        const std::string name = argc > 1 ? argv[1] : "";
        const bool known =
            !app.get_subcommands([&](const CLI::App* command) { return command->get_name() == name; }).empty();
        const bool misnamed = !known && !name.empty() && !name.starts_with("-");
        throw Error((misnamed ? "there is no command '" + name + "'" : error.what()) + " (see pvtune " +
                    (known ? name + " " : "") + "--help)");
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) { return pvtune::run_guarded(program, argc, argv); }
