#include "host/commands/commands.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/memory.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "host/quant/quantize_model.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

struct QuantizeOptions {
    std::string model;
    std::string out;
    QuantizationSpec spec;
    bool codebooks_given = false, code_bits_given = false, group_given = false;
};

/// What was not asked for is what the representation usually has.
QuantizationSpec completed(const QuantizeOptions& options) {
    QuantizationSpec spec = options.spec;
    if (spec.representation != "aqlm" && !options.codebooks_given) spec.codebooks = 1;
    if (spec.representation == "scalar") {
        if (options.codebooks_given) {
            throw Error("--codebooks " + std::to_string(spec.codebooks) +
                        ": scalar grids have no codebooks; leave the flag out");
        }
        if (!options.code_bits_given) spec.code_bits = 4;
        if (!options.group_given) spec.group = 128;
    }
    return spec;
}

Plan make_plan(const QuantizePlan& found, const QuantizationSpec& spec) {
    Plan plan;
    // The matrix, its scaled copy and the search's tables and targets: about five f32 copies.
    constexpr std::int64_t copies = 5;
    plan.memory = {{"largest matrix (f32, working copies)", copies * found.largest * size_of(DType::f32)},
                   {"largest tensor that is copied", 2 * found.largest_dense * size_of(DType::f32)}};
    // A beam search compares each group with every codeword; about 10 rounds.
    constexpr double rounds = 10;
    plan.flops = 2 * rounds * static_cast<double>(found.weights) * spec.codebooks *
                 static_cast<double>(std::int64_t{1} << spec.code_bits);
    plan.bytes_read = found.bytes_read;
    plan.bytes_written = found.bytes_written;
    return plan;
}

nlohmann::ordered_json log_line(const QuantizedMatrix& matrix) {
    return {{"matrix", matrix.name},
            {"rows", matrix.rows},
            {"columns", matrix.columns},
            {"bits_per_weight", static_cast<double>(matrix.bits) / static_cast<double>(matrix.rows * matrix.columns)},
            {"relative_mse", matrix.report.relative_mse()},
            {"seconds", matrix.report.seconds}};
}

void run(const CommonOptions& common, QuantizeOptions options) {
    const auto start = std::chrono::steady_clock::now();
    options.spec = completed(options);
    check_spec(options.spec);
    const auto backend = make_backend(common, common.dry_run);
    const StoreReader model(options.model, "weights");
    const QuantizePlan found = plan_quantize(model, options.spec);
    const Plan plan = make_plan(found, options.spec);
    if (common.dry_run) return print_plan(*backend, plan, common.json);
    check_fits(*backend, plan, "close other programs or use a machine with more");
    check_disk(options.out, found.bytes_written);

    if (common.device == "cuda") message(common, "without calibration there is little to compute: the CPU does it");
    watch_interrupts();
    RunLog log(common.log);
    Progress progress({"quantize", found.matrices, "matrices", "", 1, common.quiet});
    std::int64_t done = 0;
    QuantizationReport running;
    const QuantizeResult result = quantize_model(
        model, options.spec, options.out, common.command_line, common.seed,
        [&] { return make_cpu_backend({.threads = common.threads}); },
        [&](const QuantizedMatrix& matrix) {
            stop_if_interrupted();
            running.squared_error += matrix.report.squared_error;
            running.squared_norm += matrix.report.squared_norm;
            progress.update(++done, format("relative MSE %.5f, ", running.relative_mse()) + matrix.name);
            log.write(log_line(matrix));
        });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double bits = static_cast<double>(result.bits) / static_cast<double>(found.weights);
    std::cout << options.out << ": " << found.matrices << " matrices in "
              << format("%.4f bits a weight, relative MSE %.5f, %.1f s, content hash ", bits,
                        result.total.relative_mse(), seconds)
              << result.content_hash << "\n";
    print_result(common, {{"bits_per_weight", bits},
                          {"relative_mse", result.total.relative_mse()},
                          {"seconds", seconds},
                          {"peak_bytes", peak_memory()},
                          {"matrices", found.matrices},
                          {"weights", found.weights},
                          {"representation", options.spec.representation},
                          {"codebooks", options.spec.codebooks},
                          {"code_bits", options.spec.code_bits},
                          {"group", options.spec.group},
                          {"threads", common.threads},
                          {"seed", common.seed},
                          {"content_hash", result.content_hash}});
}

}  // namespace

void add_quantize_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<QuantizeOptions>();
    CLI::App* command = app.add_subcommand("quantize", "quantise the matrices of all blocks, without calibration");
    command->add_option("--model", options->model, "dense weights file, from import")->type_name("FILE")->required();
    command->add_option("--out", options->out, "weights file to write")->type_name("FILE")->required();
    command
        ->add_option("--representation", options->spec.representation,
                     "aqlm (several codebooks), vq (one) or scalar (a grid of equal steps)")
        ->check(CLI::IsMember({"aqlm", "vq", "scalar"}))
        ->capture_default_str();
    auto* codebooks =
        command->add_option("--codebooks", options->spec.codebooks, "codebooks a matrix, 1..8 (vq: 1; not for scalar)")
            ->type_name("N")
            ->capture_default_str();
    auto* code_bits =
        command
            ->add_option("--code-bits", options->spec.code_bits,
                         "bits a code: codebooks have 2^N entries, 1..16; scalar grids 2^N values, 2..8 (default 4)")
            ->type_name("N")
            ->capture_default_str();
    auto* group = command
                      ->add_option("--group", options->spec.group,
                                   "weights a code stands for: 4, 8 or 16; scalar: columns of a row that share a grid, "
                                   "32, 64 or 128 (default), or 0 for the whole row")
                      ->type_name("N")
                      ->capture_default_str();
    command->footer(
        "Bits a weight: codebooks * code-bits / group, and a little for codebooks and scales (16 bits a value).\n"
        "2 codebooks of 8 bits over groups of 8 give 2 bits. Scalar: code-bits, and 32 bits for every grid (scale and "
        "zero);\n3 bits in groups of 128 columns give 3.25. Norms, embedding and head stay as they are.\n"
        "Example: pvtune quantize --model model.h5 --representation aqlm --codebooks 2 --code-bits 8 --group 8 "
        "--out q.h5\n"
        "         pvtune quantize --model model.h5 --representation scalar --code-bits 3 --group 128 --out q.h5");
    command->callback([&common, options, codebooks, code_bits, group] {
        options->codebooks_given = codebooks->count() > 0;
        options->code_bits_given = code_bits->count() > 0;
        options->group_given = group->count() > 0;
        run(common, *options);
    });
}

}  // namespace pvtune
