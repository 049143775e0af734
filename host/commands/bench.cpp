#include "host/bench/fingerprint.h"
#include "host/bench/result.h"
#include "host/bench/table.h"
#include "host/commands/commands.h"
#include "host/commands/flags.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "host/common/text_file.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

struct BenchOptions {
    std::string filter;
    std::vector<std::string> shapes;
    double seconds = 1;
    bool fingerprint = false;
    std::string out, compare;
};

/// An entry at one shape, and what its operands take.
struct PlannedEntry {
    BenchSetting setting;
    BenchEntry entry;
    std::int64_t bytes = 0;
    double flops = 0;
};

std::vector<PlannedEntry> plan_entries(Backend& backend, const CommonOptions& common, const BenchOptions& options) {
    const bool on_cpu = common.device == "cpu";
    std::vector<std::string> shapes = options.shapes;
    if (shapes.empty())
        shapes = on_cpu ? std::vector<std::string>{"smollm2"} : std::vector<std::string>{"1b", "7b", "70b"};
    std::vector<PlannedEntry> planned;
    for (const std::string& shape : shapes) {
        const BenchSetting setting{&backend, on_cpu, common.compute_type(), parse_shape(shape)};
        for (BenchEntry& entry : bench_registry(setting)) {
            if (entry.name().find(options.filter) == std::string::npos) continue;
            Operands counting;
            const BenchCall call = entry.make(counting);
            planned.push_back({setting, std::move(entry), counting.bytes(), call.flops});
        }
    }
    if (planned.empty())
        throw Error("--op " + options.filter + ": there is no such operation; `pvtune bench --dry-run` lists them");
    return planned;
}

/// Of the entries that fit; the others are left out with a statement.
std::int64_t pool_bytes(const std::vector<PlannedEntry>& planned, std::int64_t limits, std::int64_t room) {
    std::int64_t bytes = limits;
    for (const PlannedEntry& p : planned) {
        if (p.bytes <= room) bytes = std::max(bytes, p.bytes);
    }
    return bytes;
}

void print_list(const std::vector<PlannedEntry>& planned) {
    std::cout << "entries\n";
    for (const PlannedEntry& p : planned) {
        std::cout << format("  %-31s %-9s %12s%s%s\n", p.entry.name().c_str(), p.setting.shape.name.c_str(),
                            bytes_text(p.bytes).c_str(), p.entry.reason.empty() ? "" : "  ", p.entry.reason.c_str());
    }
}

void write_json(const std::string& path, const nlohmann::ordered_json& json) {
    TextFile file(path);
    file.write(json.dump(1) + "\n");
    file.commit();
}

BenchResult measure(const PlannedEntry& planned, Operands& operands, Tensor flush, std::int64_t room, double seconds) {
    const BenchEntry& entry = planned.entry;
    BenchResult result{entry.op, entry.version, entry.reason, planned.setting.shape, 0, 0, DType::f32, {}, ""};
    Operands counting;
    const bool fits = planned.bytes <= room;
    operands.reset();
    const BenchCall call = entry.make(fits ? operands : counting);
    result.bytes = call.bytes;
    result.flops = call.flops;
    result.products = call.products;
    if (fits) {
        result.times = time_call(*planned.setting.backend, call, flush, seconds);
    } else {
        result.skipped = "needs " + bytes_text(planned.bytes) + ", " + bytes_text(room) + " are there";
    }
    return result;
}

/// What the operations compute instead of how long they take.
void print_fingerprints(const CommonOptions& common, Backend& backend, const std::vector<PlannedEntry>& planned) {
    std::int64_t bytes = 0;
    for (const PlannedEntry& p : planned) bytes = std::max(bytes, p.bytes);
    Plan plan;
    plan.memory = {{"operands of the largest entry", bytes}, {"random numbers", Operands::noise_bytes}};
    if (common.dry_run) return print_plan(backend, plan, common.json);
    check_fits(backend, plan, "give a smaller --shape");
    watch_interrupts();
    Operands operands(backend, bytes);
    nlohmann::ordered_json hashes;
    for (const PlannedEntry& p : planned) {
        stop_if_interrupted();
        const std::string hash = fingerprint(backend, p.entry, operands);
        hashes[p.entry.name() + " " + p.setting.shape.name] = hash;
        std::cout << format("%s  %-31s %s\n", hash.c_str(), p.entry.name().c_str(), p.setting.shape.name.c_str());
    }
    print_result(common,
                 {{"device", backend.description()}, {"precision", common.precision}, {"fingerprints", hashes}});
}

void run(const CommonOptions& common, const BenchOptions& options) {
    constexpr std::int64_t result_bytes = 1 << 20;
    check_outputs(options.out, common.log, {});
    check_outputs("", common.log, {{"--compare", options.compare}});
    const EarlierRun earlier = options.compare.empty() ? EarlierRun{} : read_earlier_run(options.compare);
    const EarlierRun* compared = options.compare.empty() ? nullptr : &earlier;
    if (!options.out.empty()) {
        check_replaces_json("--out", options.out);
        check_disk(options.out, result_bytes);
    }
    const auto backend = make_backend(common, common.dry_run);
    const std::vector<PlannedEntry> planned = plan_entries(*backend, common, options);
    if (options.fingerprint) return print_fingerprints(common, *backend, planned);
    const BenchSetting& setting = planned.front().setting;

    Operands counting;
    measure_limits(setting, counting);
    const std::int64_t flushed = flush_bytes(*backend);
    const std::int64_t room = backend->memory_limit() - flushed - Operands::noise_bytes;
    Plan plan;
    plan.memory = {{"written between runs", flushed},
                   {"operands of the largest entry", pool_bytes(planned, counting.bytes(), room)},
                   {"random numbers", Operands::noise_bytes}};
    for (const PlannedEntry& entry : planned) plan.flops += entry.flops;  // of one call each
    if (common.dry_run) {
        if (!common.json) print_list(planned);
        return print_plan(*backend, plan, common.json);
    }
    check_fits(*backend, plan, "close other programs");

    watch_interrupts();
    RunLog log(common.log);
    const Tensor flush = backend->arena().allocate("flush", DType::f32, {flushed / size_of(DType::f32)});
    Operands operands(*backend, plan.memory[1].bytes);
    BenchRun run{
        backend->description(), common.precision, common.threads, flushed, measure_limits(setting, operands), {}};
    Progress progress({"bench", static_cast<std::int64_t>(planned.size()), "operations", "", 1, common.quiet});
    for (const PlannedEntry& entry : planned) {
        stop_if_interrupted();
        run.results.push_back(measure(entry, operands, flush, room, options.seconds));
        const BenchResult& result = run.results.back();
        log.write({{"op", result.name()}, {"shape", result.shape.name}, {"seconds", result.times.median}});
        progress.update(static_cast<std::int64_t>(run.results.size()), entry.entry.name());
    }
    std::cout << table_text(run, compared);
    const nlohmann::ordered_json json = to_json(run);
    if (!options.out.empty()) write_json(options.out, json);
    print_result(common, json);
}

}  // namespace

void add_bench_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<BenchOptions>();
    CLI::App* command = app.add_subcommand("bench", "time the operations against this device's limits");
    command->add_option("--op", options->filter, "only operations whose name contains this")->type_name("NAME");
    command
        ->add_option("--shape", options->shapes,
                     "models and sizes: smollm2, 1b, 7b, 70b; 7b,tokens=256; width=64,heads=4 (default: smollm2 on the "
                     "CPU, 1b 7b 70b on cuda)")
        ->type_name("SHAPE...");
    command->add_option("--seconds", options->seconds, "time spent on each operation")
        ->check(real_range(0.0, 600.0))
        ->type_name("S")
        ->capture_default_str();
    CLI::Option* fingerprint =
        command->add_flag("--fingerprint", options->fingerprint,
                          "no times: run each operation once on the same operands and hash what it leaves");
    command->add_option("--out", options->out, "keep the result in this JSON file")
        ->type_name("FILE")
        ->excludes(fingerprint);
    command
        ->add_option("--compare", options->compare, "show each time as a multiple of that in a file that --out wrote")
        ->type_name("FILE")
        ->excludes(fingerprint);
    command->footer(
        "Share: the time that the copy bandwidth or the rate of large matrix products, both measured in the same run,\n"
        "would allow, against the time it took. op@version is another version of what op does.\n"
        "Fingerprints are the same in every run on a kind of processor or device, for any number of threads (products\n"
        "in f32 on a CPU, oneDNN's, for the same number): they say which operations a change makes compute other "
        "bits.\n"
        "Example: pvtune bench --op attention --precision bf16 --out before.json");
    command->callback([&common, options] { run(common, *options); });
}

}  // namespace pvtune
