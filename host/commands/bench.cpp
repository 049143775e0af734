#include "host/bench/bench.h"

#include "host/commands/commands.h"
#include "host/common/interrupt.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

constexpr double giga = 1e9;

nlohmann::ordered_json to_json(const BenchResult& result, const MachineLimits& limits) {
    return {{"op", result.name},
            {"seconds", result.seconds},
            {"bytes", result.bytes},
            {"flops", result.flops},
            {"share_of_copy", result.bytes / result.seconds / limits.copy_bytes_per_second},
            {"share_of_gemm", result.flops / result.seconds / limits.flops_per_second}};
}

void print_row(const BenchResult& r, const MachineLimits& limits) {
    const auto share = [](double value) {
        return value > 0 ? format("%5.0f %%", 100 * value) : std::string("      -");
    };
    std::cout << format("  %-26s %9.3f ms %9s %9.2f %9.1f  %s  %s\n", r.name.c_str(), 1e3 * r.seconds,
                        bytes_text(static_cast<std::int64_t>(r.bytes)).c_str(), r.bytes / r.seconds / giga,
                        r.flops / r.seconds / giga, share(r.bytes / r.seconds / limits.copy_bytes_per_second).c_str(),
                        share(r.flops / r.seconds / limits.flops_per_second).c_str());
}

void run(const CommonOptions& common, const std::string& filter, double seconds) {
    const auto backend = make_backend(common);
    Plan plan;
    plan.memory = {{"operands", std::int64_t{640} << 20}, {"limits", std::int64_t{320} << 20}};
    if (common.dry_run) return print_plan(*backend, plan, common.json);
    check_fits(*backend, plan, "close other programs");
    const std::vector<BenchEntry> entries = bench_entries(*backend, common.compute_type(), filter);
    if (entries.empty()) throw Error("--op " + filter + ": there is no such operation; `pvtune bench` lists them");

    watch_interrupts();
    RunLog log(common.log);
    const MachineLimits limits = measure_limits(*backend, common.compute_type());
    std::cout << "bench on " << backend->description() << ", " << common.precision << ", SmolLM2-135M, 2048 tokens\n"
              << format("this machine, in this run: copy %.1f GB/s, GEMM %.0f GFLOP/s\n\n",
                        limits.copy_bytes_per_second / giga, limits.flops_per_second / giga)
              << format("  %-26s %12s %9s %9s %9s  %7s  %7s\n", "op", "time", "moved", "GB/s", "GFLOP/s", "of copy",
                        "of GEMM");
    Progress progress({"bench", static_cast<std::int64_t>(entries.size()), "operations", "", 1, common.quiet});
    nlohmann::ordered_json results = nlohmann::ordered_json::array();
    std::vector<BenchResult> rows;
    for (const BenchEntry& entry : entries) {
        stop_if_interrupted();
        rows.push_back(time_entry(*backend, entry, seconds));
        results.push_back(to_json(rows.back(), limits));
        log.write(results.back());
        progress.update(static_cast<std::int64_t>(rows.size()), entry.name);
    }
    for (const BenchResult& row : rows) print_row(row, limits);
    print_result(common, {{"device", backend->description()},
                          {"precision", common.precision},
                          {"threads", common.threads},
                          {"copy_bytes_per_second", limits.copy_bytes_per_second},
                          {"flops_per_second", limits.flops_per_second},
                          {"operations", results}});
}

}  // namespace

void add_bench_command(CLI::App& app, CommonOptions& common) {
    struct Options {
        std::string filter;
        double seconds = 0.3;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand("bench", "time the operations against this machine's limits");
    command->add_option("--op", options->filter, "only operations whose name contains this")->type_name("NAME");
    command->add_option("--seconds", options->seconds, "time spent on each operation")
        ->check(CLI::Range(0.0, 600.0))
        ->type_name("S")
        ->capture_default_str();
    command->footer(
        "Shares are of the copy bandwidth and of the best GEMM rate, measured in the same run.\n"
        "Example: pvtune bench --op attention --precision bf16");
    command->callback([&common, options] { run(common, options->filter, options->seconds); });
}

}  // namespace pvtune
