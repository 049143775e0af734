#include "cuda/error.h"
#include "host/commands/commands.h"
#include "host/common/interrupt.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "io/error.h"

#include <omp.h>
#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>

namespace pvtune {

namespace {

constexpr int status_internal = 1;
constexpr int status_user = 2;
constexpr int status_interrupted = 130;

int fail(int status, const std::string& what) {
    std::cout.flush();
    std::fprintf(stderr, "pvtune: %s\n", one_line(what).c_str());
    return status;
}

/// CLI11 reads -1 and what is too large as 2^64 - 1.
std::string whole_number(const std::string& text) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size()) return "";
    return text + ": give a whole number of 0 to 2^64 - 1";
}

}  // namespace

void add_common_flags(CLI::App& app, CommonOptions& common) {
    const std::string group = "Common options";
    common.threads = omp_get_max_threads();  // OMP_NUM_THREADS and the CPUs that the process may use
    for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
        command->add_option("--device", common.device, "what computes: cpu or cuda")
            ->check(CLI::IsMember({"cpu", "cuda"}))
            ->capture_default_str()
            ->group(group);
        command
            ->add_option("--precision", common.precision,
                         "of weights and activations in products: f32 or bf16 (sums in f32)")
            ->check(CLI::IsMember({"f32", "bf16"}))
            ->capture_default_str()
            ->group(group);
        command->add_option("--threads", common.threads, "threads of the CPU (default: all that the process may use)")
            ->check(CLI::Range(1, 4096))
            ->type_name("N")
            ->group(group);
        command->add_option("--seed", common.seed, "of everything random: the same seed repeats a run bit for bit")
            ->check(whole_number)
            ->type_name("N")
            ->capture_default_str()
            ->group(group);
        command->add_option("--log", common.log, "also write one JSON object a step to this file")
            ->check([](const std::string& path) {
                check_log(path);
                return std::string();
            })
            ->type_name("FILE")
            ->group(group);
        command->add_flag("--dry-run", common.dry_run, "print the plan (memory, work, disk) and start nothing")
            ->group(group);
        command->add_flag("--quiet", common.quiet, "no progress and no messages: the result and errors only")
            ->group(group);
        command->add_flag("--json", common.json, "the result as one JSON object on the last line of standard output")
            ->group(group);
    }
}

std::unique_ptr<Backend> make_backend(const CommonOptions& common, bool planning) {
    if (common.device == "cuda") {
        if (common.threads > 0) omp_set_num_threads(common.threads);
        return make_cuda_backend({planning});
    }
    CpuOptions options;
    options.threads = common.threads;
    options.planning = planning;
    return make_cpu_backend(options);
}

void message(const CommonOptions& common, const std::string& text) {
    if (!common.quiet) std::fprintf(stderr, "pvtune: %s\n", one_line(text).c_str());
}

void print_result(const CommonOptions& common, const nlohmann::ordered_json& result) {
    if (common.json) std::cout << json_line(result) << "\n";
}

int run_guarded(int (*program)(int, char**), int argc, char** argv) {
    try {
        const int status = program(argc, argv);
        if (!std::cout.flush()) throw Error("standard output cannot be written: is its reader gone, or the disk full?");
        return status;
    } catch (const Error& error) {
        return fail(status_user, error.what());
    } catch (const Interrupted& interrupt) {
        return fail(status_interrupted, interrupt.what());
    } catch (const std::bad_alloc&) {
        return fail(status_user, "out of memory: close other programs or use a machine with more");
    } catch (const std::filesystem::filesystem_error& error) {
        return fail(status_user, error.what());
    } catch (const cuda::CudaError& error) {
        return fail(status_user,
                    std::string(error.what()) + "; a tuning run goes on from its last checkpoint with --resume");
    } catch (const std::invalid_argument& error) {  // of the launchers in cuda/kernels.h
        return fail(status_user, std::string(error.what()) + ": no kernel covers this: use --device cpu");
    } catch (const dnnl::error& error) {
        if (error.status == dnnl_out_of_memory)
            return fail(status_user, "out of memory in oneDNN: use a smaller --ctx");
        return fail(status_user, std::string("oneDNN: ") + error.what());
    } catch (const std::exception& error) {
        return fail(status_internal, std::string("internal error, please report it: ") + error.what());
    } catch (...) {
        return fail(status_internal, "internal error, please report it");
    }
}

}  // namespace pvtune
