#include "host/calibrate/calibrate.h"
#include "host/commands/commands.h"
#include "host/commands/flags.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/memory.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "host/common/token_store.h"
#include "host/model/cost.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

struct QuantizeOptions {
    std::string model;
    std::string out;
    std::string tokens;  ///< to calibrate with; empty: without
    std::string targets = "model", bos = "auto";
    std::int64_t activation_mebibytes = 4096;
    bool resume = false;
    QuantizationSpec spec;
    CalibrateSettings calibrate;
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
    if (spec.representation == "quip" && !options.code_bits_given) spec.code_bits = 2;
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
    // Two shifts of 256 entries, and half of that or as much again for the residual.
    if (spec.representation == "quip") plan.flops = 2 * static_cast<double>(found.weights) * 256 * spec.code_bits;
    plan.bytes_read = found.bytes_read;
    plan.bytes_written = found.bytes_written;
    return plan;
}

Plan make_plan(const CommonOptions& common, const QuantizeOptions& options, const ModelConfig& config,
               const QuantizePlan& found) {
    const CalibrateSettings& settings = options.calibrate;
    const auto planning = make_backend(common, true);
    plan_calibration(*planning, config, options.spec, settings);
    Plan plan = plan_of(*planning);
    const std::int64_t tokens = settings.sequences * settings.length;
    const std::int64_t states = 2 * tokens * config.width * size_of(settings.precision);
    std::vector<Allocation>& host_memory = common.device == "cuda" ? plan.host_memory : plan.memory;
    if (states <= options.activation_mebibytes << 20) host_memory.push_back({"hidden states between blocks", states});
    // W, What, their products with H, what is left, a direction and targets; k-means' copies come before and are gone.
    constexpr std::int64_t copies = 8;
    plan.memory.push_back({"largest matrix (f32, working copies)", copies * found.largest * size_of(DType::f32)});
    // As it is used and its factor; QuIP# has it between the transforms and factors it in f64 as well.
    const std::int64_t widest = std::max(config.width, config.intermediate);
    const std::int64_t hessians = options.spec.representation == "quip" ? 5 : 2;
    plan.memory.push_back(
        {"Hessian of a matrix (f32, working copies)", hessians * widest * widest * size_of(DType::f32)});
    const std::int64_t attended = config.heads * config.head_dim;
    const std::int64_t squares =
        2 * config.width * config.width + attended * attended + config.intermediate * config.intermediate;
    host_memory.push_back({"Hessians of a block as they came (f32)", squares * size_of(DType::f32)});
    host_memory.push_back({"embedding (f32)", 2 * found.largest_dense * size_of(DType::f32)});
    // Hessians, targets and states: three passes forward; a pass of tuning is three more.
    ModelConfig blocks = config;
    blocks.vocabulary = 0;  // no head
    plan.flops = forward_flops(blocks, tokens, settings.length) * (3 + 3 * settings.block.epochs);
    plan.bytes_read = found.bytes_read;
    plan.bytes_written =
        found.bytes_written + found.bytes_of_blocks + (states > options.activation_mebibytes << 20 ? states : 0);
    return plan;
}

/// --resume without finished blocks is a new run, for jobs that always give it; but not over what such a run has made.
void refuse_to_repeat(const std::string& out) {
    if (!std::filesystem::exists(out) || store_kind(out) != "weights") return;
    throw Error(out +
                ": is finished, there is nothing to resume: name another --out, or leave --resume out to start again");
}

/// What a resumed run must be given again.
std::string source_of(const CommonOptions& common, const QuantizeOptions& options, const StoreReader& model,
                      const TokenText& text) {
    const CalibrateSettings& s = options.calibrate;
    return nlohmann::ordered_json{{"model", model.content_hash()},
                                  {"tokens", text.content_hash},
                                  {"sequences", s.sequences},
                                  {"ctx", s.length},
                                  {"precision", common.precision},
                                  {"representation", options.spec.representation},
                                  {"codebooks", options.spec.codebooks},
                                  {"code_bits", options.spec.code_bits},
                                  {"group", options.spec.group},
                                  {"rounds", s.additive.rounds},
                                  {"targets", options.targets},
                                  {"block_epochs", s.block.epochs},
                                  {"block_batch", s.block.batch},
                                  {"block_lr", s.block.rate},
                                  {"block_held_out", s.block.held_out},
                                  {"seed", common.seed}}
        .dump();
}

nlohmann::ordered_json log_line(const QuantizedMatrix& matrix) {
    return {{"matrix", matrix.name},
            {"rows", matrix.rows},
            {"columns", matrix.columns},
            {"bits_per_weight", static_cast<double>(matrix.bits) / static_cast<double>(matrix.rows * matrix.columns)},
            {"relative_mse", matrix.report.relative_mse()},
            {"relative_output_error", matrix.report.relative_output_error()},
            {"seconds", matrix.report.seconds},
            {"peak_bytes", peak_memory()}};
}

nlohmann::ordered_json log_line(const CalibratedBlock& block) {
    return {{"block", block.index},
            {"tuned_error_before", block.tuning.before},
            {"tuned_error", block.tuning.after},
            {"tuned_epochs", block.tuning.epochs},
            {"hessian_seconds", block.hessian_seconds},
            {"quantize_seconds", block.quantize_seconds},
            {"tune_seconds", block.tune_seconds},
            {"forward_seconds", block.forward_seconds}};
}

QuantizeResult quantize(const CommonOptions& common, const QuantizeOptions& options, const StoreReader& model,
                        const QuantizePlan& found) {
    RunLog log(common.log);
    Progress progress({"quantize", found.matrices, "matrices", "", 1, common.quiet});
    std::int64_t done = 0;
    QuantizationReport running;
    return quantize_model(
        model, options.spec, options.out, common.command_line, common.seed, [&] { return make_backend(common, false); },
        [&](const QuantizedMatrix& matrix) {
            stop_if_interrupted();
            running.squared_error += matrix.report.squared_error;
            running.squared_norm += matrix.report.squared_norm;
            progress.update(++done, format("relative MSE %.5f, ", running.relative_mse()) + matrix.name);
            log.write(log_line(matrix));
        });
}

QuantizeResult calibrate(const CommonOptions& common, const QuantizeOptions& options, const StoreReader& model,
                         Backend& backend, const TokenText& text) {
    RunLog log(common.log, options.resume);
    const std::int64_t blocks = read_config(model).layers;
    Progress progress({"quantize", blocks, "blocks", "", 1, common.quiet});
    CalibrateJob job;
    job.model = &model;
    job.spec = options.spec;
    job.settings = options.calibrate;
    job.tokens = text.tokens;
    job.source = source_of(common, options, model, text);
    job.out = options.out;
    job.command = common.command_line;
    job.seed = common.seed;
    job.resume = options.resume;
    if (!job.resume && has_finished_blocks(job)) {
        message(common, "warning: " + job.folder() + " is of a run that did not end, and this one will replace it: " +
                            "--resume goes on with it");
    }
    QuantizationReport running;
    return calibrate_model(backend, job, [&](const CalibratedBlock& block) {
        for (const QuantizedMatrix& matrix : block.matrices) {
            running.output_error += matrix.report.output_error;
            running.output_norm += matrix.report.output_norm;
            if (!block.resumed) log.write(log_line(matrix));
        }
        if (!block.resumed) log.write(log_line(block));
        if (block.resumed) progress.start_at(block.index + 1);
        std::string errors = format("relative output error %.4f", running.relative_output_error());
        if (!block.resumed) errors += format(", block %.4f -> %.4f", block.tuning.before, block.tuning.after);
        progress.update(block.index + 1, errors);
        if (interrupted() && block.index + 1 < blocks) {
            throw Interrupted("interrupted after block " + std::to_string(block.index) + "; finished blocks are in " +
                              job.folder() + ": go on with the same command and --resume");
        }
    });
}

std::vector<std::string> flags_without_effect(const CLI::App& command, const QuantizeOptions& options) {
    const std::string& representation = options.spec.representation;
    const bool in_rounds = representation == "aqlm" || representation == "vq";
    const bool tuned = options.calibrate.block.epochs > 0;
    const char* tuning = "the tuning of blocks uses it";
    const FlagUse flags[] = {{"--rounds", in_rounds, "--representation " + representation, "aqlm and vq use it"},
                             {"--block-batch", tuned, "--block-epochs 0", tuning},
                             {"--block-lr", tuned, "--block-epochs 0", tuning},
                             {"--block-held-out", tuned, "--block-epochs 0", tuning},
                             {"--block-targets", tuned, "--block-epochs 0", tuning}};
    return flags_without_effect(command, flags);
}

void run(const CommonOptions& common, QuantizeOptions options, const CLI::App& command) {
    const auto start = std::chrono::steady_clock::now();
    options.spec = completed(options);
    check_spec(options.spec);
    const bool calibrated = !options.tokens.empty();
    options.calibrate.precision = common.compute_type();
    options.calibrate.dense_targets = options.targets == "model";
    options.calibrate.activation_memory = options.activation_mebibytes << 20;
    check_outputs(options.out, common.log, {{"--model", options.model}, {"--calibrate", options.tokens}});
    check_replaces_model(options.out);
    const auto backend = make_backend(common, common.dry_run);
    const StoreReader model(options.model, "weights");
    const QuantizePlan found = plan_quantize(*backend, model, options.spec);
    const ModelConfig config = read_config(model);
    TokenText text;
    if (calibrated) {
        if (options.calibrate.length > config.max_positions) {
            throw Error("--ctx " + std::to_string(options.calibrate.length) + ": the model has " +
                        std::to_string(config.max_positions) + " positions: use a smaller one");
        }
        const std::int64_t tokens = options.calibrate.sequences * options.calibrate.length;
        text = read_tokens(options.tokens, config.vocabulary, options.calibrate.length, tokens);
        if (text.stored < tokens) {
            throw Error(options.tokens + ": has " + std::to_string(text.stored / options.calibrate.length) +
                        " sequences of --ctx " + std::to_string(options.calibrate.length) +
                        ", fewer than --sequences " + std::to_string(options.calibrate.sequences) +
                        ": use fewer, or a longer text");
        }
        begin_windows(text, options.calibrate.length, config, options.bos);
        if (!text.warning.empty()) message(common, "warning: " + text.warning);
    }
    const Plan plan = calibrated ? make_plan(common, options, config, found) : make_plan(found, options.spec);
    const std::string folder = calibration_folder(options.out);
    if (!common.dry_run) {
        check_fits(*backend, plan,
                   calibrated ? "use a smaller --ctx, or a smaller --activation-memory" : "use a machine with more");
        check_disk(options.out, plan.bytes_written - (calibrated ? bytes_in_folder(folder) : 0));
        if (options.resume && !std::filesystem::exists(folder)) refuse_to_repeat(options.out);
    }
    for (const std::string& line : flags_without_effect(command, options)) message(common, "warning: " + line);
    if (common.dry_run) return print_plan(*backend, plan, common.json);
    watch_interrupts();
    const QuantizeResult result =
        calibrated ? calibrate(common, options, model, *backend, text) : quantize(common, options, model, found);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double bits = static_cast<double>(result.bits) / static_cast<double>(found.weights);
    std::cout << options.out << ": " << found.matrices << " matrices in "
              << format("%.4f bits a weight, relative MSE %.5f, ", bits, result.total.relative_mse())
              << (calibrated ? format("relative output error %.5f, ", result.total.relative_output_error()) : "")
              << format("%.1f s, content hash ", seconds) << result.content_hash << "\n";
    nlohmann::ordered_json json = {{"bits_per_weight", bits},
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
                                   {"content_hash", result.content_hash}};
    if (calibrated) json["relative_output_error"] = result.total.relative_output_error();
    print_result(common, json);
}

void add_calibration(CLI::App& command, QuantizeOptions& options) {
    const std::string group = "Calibration";
    const auto count = CLI::Range(std::int64_t{1}, std::int64_t{1} << 40);
    CalibrateSettings& settings = options.calibrate;
    auto* calibrate = command
                          .add_option("--calibrate", options.tokens,
                                      "tokens file (or a folder of them): quantise block by block for the inputs that "
                                      "this text gives each matrix")
                          ->type_name("FILE")
                          ->group(group);
    const auto add = [&](const char* name, auto& value, const char* text) {
        return command.add_option(name, value, text)->capture_default_str()->group(group)->needs(calibrate);
    };
    add("--sequences", settings.sequences, "sequences of the text")->check(count);
    add("--ctx", settings.length, "tokens a sequence")->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30));
    add_bos_flag(command, options.bos, "every sequence, in place of its first token,")->group(group)->needs(calibrate);
    add("--rounds", settings.additive.rounds,
        "rounds of codes, then codebooks and scales, for each matrix (aqlm and vq): 1 is quickest")
        ->check(CLI::Range(0, 1000));
    add("--block-epochs", settings.block.epochs,
        "passes over the sequences, at most, that tune a block's codebooks, scales and norms; 0: none")
        ->check(CLI::Range(0, 1000));
    add("--block-batch", settings.block.batch, "sequences a step of that tuning")->check(count);
    add("--block-lr", settings.block.rate, "rate of that tuning")->check(real_range(0.0, 1.0));
    add("--block-held-out", settings.block.held_out,
        "share of the sequences, the last ones, that decides when it stops; 0: the last one, which is tuned on too")
        ->check(real_range(0.0, 0.9));
    add("--block-targets", options.targets,
        "what it tunes towards: states of the unquantised model, or the unquantised block's outputs for the quantised "
        "model's states")
        ->check(CLI::IsMember({"model", "block"}));
    add("--activation-memory", options.activation_mebibytes,
        "MiB for the hidden states between blocks; above it they are streamed through files in OUT.calibration")
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30));
    command
        .add_flag("--resume", options.resume,
                  "go on behind the finished blocks in OUT.calibration; the result has the same bits")
        ->needs(calibrate)
        ->group(group);
}

}  // namespace

void add_quantize_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<QuantizeOptions>();
    CLI::App* command =
        app.add_subcommand("quantize", "quantise the matrices of all blocks, with or without calibration");
    command->add_option("--model", options->model, "dense weights file, from import")->type_name("FILE")->required();
    command->add_option("--out", options->out, "weights file to write")->type_name("FILE")->required();
    command
        ->add_option("--representation", options->spec.representation,
                     "aqlm (several codebooks), vq (one), scalar (a grid of equal steps) or quip (E8 lattice behind "
                     "Hadamard transforms)")
        ->check(CLI::IsMember({"aqlm", "vq", "scalar", "quip"}))
        ->capture_default_str();
    auto* codebooks = command
                          ->add_option("--codebooks", options->spec.codebooks,
                                       "codebooks a matrix, 1..8 (vq: 1; not for scalar and quip)")
                          ->type_name("N")
                          ->capture_default_str();
    auto* code_bits =
        command
            ->add_option("--code-bits", options->spec.code_bits,
                         "bits a code: codebooks have 2^N entries, 1..16; scalar grids 2^N values, 2..8 (default 4); "
                         "quip: bits a weight, 2..4 (default 2)")
            ->type_name("N")
            ->capture_default_str();
    auto* group = command
                      ->add_option("--group", options->spec.group,
                                   "weights a code stands for: 4, 8 or 16; scalar: columns of a row that share a grid, "
                                   "32, 64 or 128 (default), or 0 for the whole row; quip: 8")
                      ->type_name("N")
                      ->capture_default_str();
    add_calibration(*command, *options);
    command->footer(
        "Bits a weight: codebooks * code-bits / group, and a little for codebooks and scales (16 bits a value).\n"
        "2 codebooks of 8 bits over groups of 8 give 2 bits. Scalar: code-bits, and 32 bits for every grid (scale and "
        "zero);\n3 bits in groups of 128 columns give 3.25. Quip: code-bits, 32 bits a matrix for its scale, and a bit "
        "a row "
        "and\ncolumn for random signs (16 each once tuning has made numbers of them). Embedding and head stay as they "
        "are, and\nso do norms unless blocks are tuned.\n"
        "Example: pvtune quantize --model model.h5 --representation aqlm --codebooks 2 --code-bits 8 --group 8 "
        "\\\n             --calibrate tokens.h5 --sequences 64 --ctx 1024 --precision bf16 --out q.h5\n"
        "         pvtune quantize --model model.h5 --representation scalar --code-bits 3 --group 128 --out q.h5");
    command->callback([&common, options, command, codebooks, code_bits, group] {
        options->codebooks_given = codebooks->count() > 0;
        options->code_bits_given = code_bits->count() > 0;
        options->group_given = group->count() > 0;
        run(common, *options, *command);
    });
}

}  // namespace pvtune
