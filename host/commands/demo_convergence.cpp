#include "host/commands/commands.h"
#include "host/commands/flags.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/plan.h"
#include "host/common/python.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "host/common/text_file.h"
#include "host/theory/experiments.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

using Json = nlohmann::ordered_json;
using namespace theory;

struct DemoOptions {
    std::string problem = "both";
    std::size_t dimension = 8;
    std::size_t values = 4;
    double condition = 100;
    std::size_t large_dimension = 400;
    std::size_t large_values = 16;
    double large_condition = 1000;
    double tau = 0.01;
    std::int64_t iterations = 60;
    std::string out;
};

constexpr double most_assignments = 1 << 22;  // a minute of exhaustive V steps
constexpr std::size_t largest_dimension = 2000;

void check(const DemoOptions& options) {
    if (assignments(options.dimension, options.values) > most_assignments) {
        throw Error(format(
            "--dimension %zu, --values %zu: an exhaustive V step has %.3g assignments, more than %.3g: "
            "use smaller ones",
            options.dimension, options.values, assignments(options.dimension, options.values), most_assignments));
    }
    const auto subspace = std::ceil(options.tau * static_cast<double>(options.large_dimension));
    if (assignments(static_cast<std::size_t>(subspace), options.large_values) > most_assignments) {
        throw Error(
            format("--tau %g: the %.0f coordinates of a subspace have %.3g assignments, more than %.3g: use a "
                   "smaller one, or fewer --large-values",
                   options.tau, subspace, assignments(static_cast<std::size_t>(subspace), options.large_values),
                   most_assignments));
    }
}

/// Makes the folder and looks for what draws, before any work.
void prepare_out(const DemoOptions& options) {
    if (options.out.empty()) return;
    std::error_code code;
    std::filesystem::create_directories(options.out, code);
    if (code) throw Error("--out " + options.out + ": cannot be made (" + code.message() + "): name a folder");
    check_disk(options.out + "/convergence.json", 1 << 20);
    python_program();
    python_script("plot_convergence.py");
}

std::vector<Experiment> run_experiments(const CommonOptions& common, const DemoOptions& options) {
    const ExperimentSettings small{options.dimension, options.values,     options.condition,
                                   options.tau,       options.iterations, common.seed};
    const ExperimentSettings large{options.large_dimension, options.large_values, options.large_condition, options.tau,
                                   options.iterations,      common.seed};
    std::vector<Experiment> experiments;
    if (options.problem != "logistic") experiments.push_back(small_quadratic(small));
    stop_if_interrupted();
    if (options.problem != "quadratic") experiments.push_back(small_logistic(small));
    stop_if_interrupted();
    if (options.problem != "logistic" && options.large_dimension > 0) experiments.push_back(large_quadratic(large));
    stop_if_interrupted();
    return experiments;
}

const char* claim_of(VStep method) {
    switch (method) {
        case VStep::exact:
        case VStep::subspace_exact:
            return "f(x') <= f(y) <= f(x)";
        case VStep::linearized:
        case VStep::subspace:
            return "f(x') <= bound <= f(y) <= f(x)";
        case VStep::naive:
            break;
    }
    return "f(y) <= f(x); no promise for x'";
}

void print_iterations(const PvRun& run) {
    constexpr std::size_t most_rows = 12;
    const bool bounded = run.method == VStep::linearized || run.method == VStep::subspace;
    std::cout << "\n  " << name_of(run.method) << ": " << claim_of(run.method) << "\n"
              << format("  %4s %14s %14s %14s %14s %7s\n", "k", "f(x)", "f(y)", bounded ? "bound" : "", "f(x')",
                        "moved");
    for (std::size_t k = 0; k < run.iterations.size(); ++k) {
        if (k == most_rows) {
            std::cout << format("  ... %zu more\n", run.iterations.size() - k);
            break;
        }
        const Iteration& it = run.iterations[k];
        const std::string bound = bounded ? format("%.8g", it.bound) : "";
        std::cout << format("  %4zu %14.8g %14.8g %14s %14.8g %7zu  %s\n", k, it.f_x, it.f_y, bound.c_str(), it.f_next,
                            it.moved, it.held ? "holds" : "VIOLATED");
    }
    if (run.fixed_point) std::cout << "  nothing moved: a fixed point\n";
}

std::size_t moved_in_all(const PvRun& run) {
    std::size_t moved = 0;
    for (const Iteration& it : run.iterations) moved += it.moved;
    return moved;
}

void print_comparison(const Experiment& experiment) {
    std::cout << format("\n  %-18s %10s %12s %11s %14s %14s  %s\n", "V step", "step", "first moved", "moved in all",
                        "f at the end", "V steps up", "held");
    for (const PvRun& run : experiment.runs) {
        const Iteration& first = run.iterations.front();
        const std::string step = first.smoothness > 0 ? format("%.4f", 1 / first.smoothness) : "-";
        std::cout << format("  %-18s %10s %12zu %12zu %14.8g %14s  %zu of %zu: %s\n", name_of(run.method), step.c_str(),
                            first.moved, moved_in_all(run), run.iterations.back().f_next,
                            format("%zu of %zu", run.rises, run.iterations.size()).c_str(),
                            run.iterations.size() - run.violated, run.iterations.size(), claim_of(run.method));
    }
}

void print(const Experiment& experiment) {
    const Iteration& first = experiment.runs.front().iterations.front();
    std::cout << format("%s: %zu coordinates, %zu values, L = %.4g; f = %.8g at the start, %.8g after its P step\n",
                        experiment.name.c_str(), experiment.dimension, experiment.values, experiment.smoothness,
                        first.f_x, first.f_y);
    for (const PvRun& run : experiment.runs) {
        if (run.method != VStep::naive && run.method != VStep::subspace_exact) print_iterations(run);
    }
    print_comparison(experiment);
    std::cout << "\n";
}

Json json_of(const Experiment& experiment) {
    Json runs = Json::array();
    for (const PvRun& run : experiment.runs) {
        Json iterations = Json::array();
        for (const Iteration& it : run.iterations) {
            iterations.push_back({{"f_x", it.f_x},
                                  {"f_y", it.f_y},
                                  {"bound", it.bound},
                                  {"f_next", it.f_next},
                                  {"smoothness", it.smoothness},
                                  {"moved", it.moved},
                                  {"values", it.values},
                                  {"held", it.held}});
        }
        runs.push_back({{"v_step", name_of(run.method)},
                        {"claim", claim_of(run.method)},
                        {"fixed_point", run.fixed_point},
                        {"moved", moved_in_all(run)},
                        {"rises", run.rises},
                        {"violated", run.violated},
                        {"iterations", iterations}});
    }
    return {{"problem", experiment.name},
            {"dimension", experiment.dimension},
            {"values", experiment.values},
            {"smoothness", experiment.smoothness},
            {"runs", runs}};
}

/// A few vectors, and two copies of the Hessian.
void print_demo_plan(const CommonOptions& common, const DemoOptions& options) {
    const auto largest = static_cast<std::int64_t>(std::max(options.dimension, options.large_dimension));
    Plan plan;
    plan.memory = {{"Hessian (f64)", 2 * largest * largest * size_of(DType::f64)}};
    plan.flops = assignments(options.dimension, options.values) * 2 *
                 static_cast<double>(options.dimension * options.dimension) * static_cast<double>(options.iterations);
    print_plan(*make_backend(common, true), plan, common.json);
}

void run(const CommonOptions& common, const DemoOptions& options) {
    if (common.device != "cpu") throw Error("--device " + common.device + ": the demonstration runs on the CPU");
    check(options);
    if (common.dry_run) return print_demo_plan(common, options);
    prepare_out(options);
    watch_interrupts();
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Experiment> experiments = run_experiments(common, options);
    Json problems = Json::array();
    RunLog log(common.log);
    std::size_t iterations = 0;
    std::size_t violated = 0;
    for (const Experiment& experiment : experiments) {
        print(experiment);
        problems.push_back(json_of(experiment));
        log.write(problems.back());
        iterations += experiment.iterations();
        violated += experiment.violated();
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::cout << format("x -> y is the P step, y -> x' the V step. %zu iterations, %zu violated, seed %llu, %.1f s\n",
                        iterations, violated, static_cast<unsigned long long>(common.seed), seconds);
    Json result{{"iterations", iterations}, {"violated", violated}, {"seconds", seconds},
                {"seed", common.seed},      {"tau", options.tau},   {"problems", problems}};
    if (!options.out.empty()) {
        const std::string path = (std::filesystem::path(options.out) / "convergence.json").string();
        TextFile file(path);
        file.write(json_line(result) + "\n");
        file.commit();
        run_python_script("plot_convergence.py", {path, "--out", options.out});
        message(common, "wrote " + path + " and convergence.png beside it");
    }
    print_result(common, result);
    require_held(experiments);
}

}  // namespace

void add_demo_convergence_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<DemoOptions>();
    CLI::App* command = app.add_subcommand("demo-convergence", "show PV-Tuning's theory on problems small enough");
    command->add_option("--problem", options->problem, "quadratic, logistic or both")
        ->check(CLI::IsMember({"quadratic", "logistic", "both"}))
        ->capture_default_str();
    const auto number = [&](const char* name, auto& value, const char* what, auto low, auto high) {
        command->add_option(name, value, what)->check(CLI::Range(low, high))->type_name("N")->capture_default_str();
    };
    number("--dimension", options->dimension, "coordinates of the small problems", 1, 24);
    number("--values", options->values, "values that they may take", 1, 64);
    const auto real = [&](const char* name, double& value, const char* what, double low, double high) {
        command->add_option(name, value, what)->check(real_range(low, high))->type_name("N")->capture_default_str();
    };
    real("--condition", options->condition, "largest over smallest curvature", 1.0, 1e8);
    number("--large-dimension", options->large_dimension, "of the large quadratic; 0: without it", std::size_t{0},
           largest_dimension);
    number("--large-values", options->large_values, "values that it may take", 1, 64);
    real("--large-condition", options->large_condition, "largest over smallest curvature", 1.0, 1e8);
    real("--tau", options->tau, "share of the coordinates in a subspace (at least one)", 1e-6, 1.0);
    number("--iterations", options->iterations, "at most; a fixed point ends a run earlier", 1, 100000);
    command->add_option("--out", options->out, "folder for convergence.json and convergence.png; made if missing")
        ->type_name("DIR");
    command->footer(
        "Every iteration is a P step (values move) and a V step (assignments move); the table says of each which\n"
        "inequalities the theory promises and whether they held. Status 1 if one did not. In f64 on the CPU,\n"
        "whatever --precision says. docs/theory.md explains what is shown.\n"
        "Example: pvtune demo-convergence --out out/theory");
    command->callback([&common, options] { run(common, *options); });
}

}  // namespace pvtune
