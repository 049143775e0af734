#pragma once

#include "host/backend/backend.h"

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace CLI {
class App;
}

namespace pvtune {

/// Flags that every command takes.
struct CommonOptions {
    std::string device = "cpu";
    std::string precision = "f32";
    int threads = 1;  ///< add_common_flags() sets it to all that the process may use
    std::uint64_t seed = 0;
    bool dry_run = false;
    std::string log;
    bool quiet = false;
    bool json = false;
    std::string command_line;  ///< of the process, stored in the files it writes

    DType compute_type() const { return precision == "bf16" ? DType::bf16 : DType::f32; }
};

// One command a file; each adds its subcommand with flags, help and what it runs.
void add_import_command(CLI::App& app, CommonOptions& common);
void add_quantize_command(CLI::App& app, CommonOptions& common);
void add_tune_command(CLI::App& app, CommonOptions& common);
void add_eval_command(CLI::App& app, CommonOptions& common);
void add_score_command(CLI::App& app, CommonOptions& common);
void add_generate_command(CLI::App& app, CommonOptions& common);
void add_inspect_command(CLI::App& app, CommonOptions& common);
void add_export_command(CLI::App& app, CommonOptions& common);
void add_bench_command(CLI::App& app, CommonOptions& common);
void add_demo_convergence_command(CLI::App& app, CommonOptions& common);
// These print what the others are, and take no common flags.
void add_completion_command(CLI::App& app);
void add_manual_command(CLI::App& app);

/// Adds the common flags to every subcommand that is there.
void add_common_flags(CLI::App& app, CommonOptions& common);

/// The backend of --device and --threads; planning: one that only records allocations.
std::unique_ptr<Backend> make_backend(const CommonOptions& common, bool planning = false);

/// A line for the user on standard error; not with --quiet.
void message(const CommonOptions& common, const std::string& text);

/// Ends a command: with --json the object on the last line of standard output.
void print_result(const CommonOptions& common, const nlohmann::ordered_json& result);

/// Runs a program and turns every exception into one line on standard error and an exit status: 2 for what a user can
/// mend, 1 for what only we can, 130 after an interrupt.
int run_guarded(int (*program)(int, char**), int argc, char** argv);

}  // namespace pvtune
