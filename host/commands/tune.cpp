#include "host/commands/commands.h"
#include "host/commands/flags.h"
#include "host/commands/tune_options.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/memory.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "host/common/token_store.h"
#include "host/model/cost.h"
#include "host/tune/batches.h"
#include "host/tune/tuner.h"
#include "io/error.h"
#include "io/partial_file.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

namespace pvtune {

namespace {

/// A kill loses no more than this and the step that it comes into.
constexpr double most_seconds_unsaved = 600;

/// Candidates that the device's beam search keeps in registers (cuda/assign_additive.cu).
constexpr int most_device_beam = 8;

Activations parse_activations(const std::string& name) {
    if (name == "keep") return Activations::keep;
    return name == "recompute" ? Activations::recompute : Activations::automatic;
}

/// The quantised model, its teacher and the text, opened and checked against each other.
struct Inputs {
    StoreReader student;
    StoreReader teacher;
    ModelConfig config;
    TokenText text;
};

Inputs open_inputs(const TuneOptions& options) {
    StoreReader student(options.model, "weights");
    StoreReader teacher(options.teacher, "weights");
    ModelConfig config = read_config(student);
    origin_of(student);  // damage is refused now, not when the model is tuned and cannot be written
    const ModelConfig teacher_config = read_config(teacher);
    if (teacher_config.vocabulary != config.vocabulary) {
        throw Error(options.teacher + ": has a vocabulary of " + std::to_string(teacher_config.vocabulary) + ", " +
                    options.model + " of " + std::to_string(config.vocabulary) +
                    ": give the model that was quantised as --teacher");
    }
    if (teacher_config.width != config.width) {
        throw Error(options.teacher + ": has a width of " + std::to_string(teacher_config.width) + ", " +
                    options.model + " of " + std::to_string(config.width) +
                    ": give the model that was quantised as --teacher");
    }
    const std::int64_t length = options.settings.length;
    if (length > std::min(config.max_positions, teacher_config.max_positions)) {
        throw Error("--ctx " + std::to_string(length) + ": the model has " + std::to_string(config.max_positions) +
                    " positions: use a smaller one");
    }
    TokenText text = read_tokens(options.tokens, config.vocabulary, length);
    begin_windows(text, length, config, options.bos);
    return {std::move(student), std::move(teacher), std::move(config), std::move(text)};
}

/// What a resumed run must be given again, besides the settings.
std::string source_of(const CommonOptions& common, const Inputs& inputs) {
    return "model " + inputs.student.content_hash() + ", teacher " + inputs.teacher.content_hash() + ", tokens " +
           inputs.text.content_hash + ", " + common.precision;
}

Tuner make_tuner(Backend& backend, const CommonOptions& common, const TuneOptions& options, const Inputs& inputs,
                 const StoreReader* checkpoint) {
    const std::int64_t length = options.settings.length;
    Model student =
        load_model(backend, inputs.student, common.compute_type(), length, Residency::one_block, checkpoint);
    if (!student.quantized()) {
        throw Error(options.model + ": is not quantised: make it with pvtune quantize first");
    }
    Model teacher = load_model(backend, inputs.teacher, common.compute_type(), length,
                               options.offloads("teacher") ? Residency::streamed : Residency::all);
    return {backend,
            options.settings,
            std::move(student),
            std::move(teacher),
            {parse_activations(options.activations), options.offloads("inputs")}};
}

/// Bytes of a checkpoint: codes and the f32 state of everything that is trained.
std::int64_t checkpoint_bytes(const Plan& plan, const TuneSettings& settings, const ModelConfig& config,
                              DType precision) {
    std::int64_t bytes = 0;
    // In f32 the products read what is trained, and the plan has these tables together with the teacher's.
    if (settings.train_dense && precision == DType::f32) {
        bytes += (config.tied ? 1 : 2) * config.vocabulary * config.width * size_of(DType::f32);
    }
    for (const Allocation& allocation : plan.memory) {
        for (const char* kept :
             {"codes", "second moment of codes", "straight-through buffers", "mean gradients", "codes of earlier steps",
              "f32 copies of embedding and head", "Adam moments", "norms and biases"}) {
            if (allocation.name == kept) bytes += allocation.bytes;
        }
        // Of the quantised matrix and of what is trained.
        for (const char* kept : {"codebooks", "scales", "zeros"}) {
            if (allocation.name == kept) bytes += 2 * allocation.bytes;
        }
    }
    return bytes;
}

/// What a run has on disk at most: a new checkpoint is whole before the old one goes, and so is the tuned model.
std::int64_t disk_bytes(const TuneOptions& options, std::int64_t checkpoint) {
    const bool replaces = options.checkpoint_every > 0 || std::filesystem::exists(options.checkpoint());
    const std::int64_t old = replaces ? checkpoint : 0;
    const auto model = static_cast<std::int64_t>(std::filesystem::file_size(options.model));
    return old + std::max(checkpoint, model + (options.keep_checkpoint ? checkpoint : 0));
}

/// What makes the largest part of the plan smaller.
std::string memory_remedy(const Plan& plan, const CommonOptions& common, const TuneSettings& settings) {
    if (plan.memory.empty()) return "";
    const auto largest = std::max_element(plan.memory.begin(), plan.memory.end(),
                                          [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
    const std::string& name = largest->name;
    if (name == "block inputs" || name == "teacher's last hidden states" || name == "gradient of hidden states") {
        return std::string("use a smaller --batch or --ctx") + (common.device == "cuda" ? ", or --offload inputs" : "");
    }
    if (name == "straight-through buffers") {
        return settings.narrow_buffer ? "use --strategy pv" : "use --code-buffer bf16, or --strategy pv";
    }
    if (name == "second moment of codes" && settings.code_moment == CodeMoment::weight) {
        return "use --code-moment group";
    }
    if (name == "mean gradients") return "use --v-every 1";
    if (name == "block weights" && common.device == "cuda") return "use --offload teacher";
    if (name == "block weights" && common.precision == "f32") return "use --precision bf16";
    return "use a smaller --micro-batch or --ctx, or --activations recompute";
}

/// Decides --activations auto: a run that chose anew, by what memory its models have left, would not be the one
/// planned.
Plan make_plan(const CommonOptions& common, TuneOptions& options, const Inputs& inputs) {
    const auto planning = make_backend(common, true);
    const Tuner tuner = make_tuner(*planning, common, options, inputs, nullptr);
    Plan plan = plan_of(*planning);
    options.activations = tuner.keeps_activations() ? "keep" : "recompute";
    const TuneSettings& settings = options.settings;
    const double forward = forward_flops(inputs.config, settings.batch * settings.length, settings.length);
    // Teacher and student; a backward pass is two; recomputed activations one more, measured V steps two.
    double passes = 2;
    if (settings.strategy != Strategy::calibration_only) passes += tuner.keeps_activations() ? 2 : 3;
    if (settings.moves_codes() && settings.measure_v) passes += 2.0 / static_cast<double>(settings.v_every);
    plan.flops = static_cast<double>(settings.steps) * forward * passes;
    plan.bytes_read = weight_bytes(plan) + static_cast<std::int64_t>(inputs.text.tokens.size()) * size_of(DType::u32);
    (common.device == "cuda" ? plan.host_memory : plan.memory)
        .push_back({"reading", inputs.config.vocabulary * inputs.config.width * bytes_while_reading});
    plan.bytes_written = disk_bytes(options, checkpoint_bytes(plan, settings, inputs.config, common.compute_type()));
    return plan;
}

nlohmann::ordered_json log_line(const StepReport& report, const TuneSettings& settings) {
    nlohmann::ordered_json line = {
        {"step", report.step},
        {"loss", report.loss},
        {"learning_rate", report.rate},
        {"v_step", report.v_step},
        {"codes_changed", report.changed},
        {"codes_selected", report.selected},
        {"codes_searched", report.searched},
        {"groups", report.groups},
        {"predicted_change", report.predicted_change},
        {"tokens", report.step * settings.batch * settings.length},
        {"seconds", report.seconds},
        {"tokens_per_second", static_cast<double>(settings.batch * settings.length) / report.seconds},
        {"teacher_seconds", report.teacher_seconds},
        {"forward_seconds", report.forward_seconds},
        {"loss_seconds", report.loss_seconds},
        {"backward_seconds", report.backward_seconds},
        {"p_seconds", report.p_seconds},
        {"v_seconds", report.v_seconds},
        {"peak_bytes", peak_memory()}};
    if (report.v_step) {
        line["codes_changed_by_block"] = report.changed_by_block;
        line["groups_by_block"] = report.groups_by_block;
    }
    if (report.measured_change) {
        line["measured_change"] = *report.measured_change;
        line["measure_seconds"] = report.measure_seconds;
    }
    if (report.returned) line["codes_returned"] = *report.returned;
    return line;
}

struct RunTotals {
    double seconds = 0;
    std::int64_t steps = 0;
    std::int64_t changed = 0;
};

RunTotals tune(const CommonOptions& common, const TuneOptions& options, const Inputs& inputs, Tuner& tuner) {
    const TuneSettings& settings = options.settings;
    Batches batches(inputs.text.tokens, settings.length, settings.seed, settings.shuffle);
    RunLog log(common.log, options.resume);
    Progress progress({"tune", settings.steps, "steps", "tokens", static_cast<double>(settings.batch * settings.length),
                       common.quiet});
    progress.start_at(tuner.steps_done());
    RunTotals totals;
    auto saved = std::chrono::steady_clock::now();
    const auto save = [&] {
        tuner.save_checkpoint(options.checkpoint(), common.command_line, source_of(common, inputs));
        saved = std::chrono::steady_clock::now();
    };
    // The last checkpoint is as it was, and what is in memory is worth more than what a new one would keep.
    const auto save_if_possible = [&] {
        try {
            save();
        } catch (const Error& error) {
            message(common,
                    "warning: no checkpoint after step " + std::to_string(tuner.steps_done()) + ": " + error.what());
            saved = std::chrono::steady_clock::now();
        }
    };
    while (tuner.steps_done() < settings.steps) {
        std::vector<std::vector<std::uint32_t>> sequences;
        for (std::int64_t i = 0; i < settings.batch; ++i) {
            const auto tokens = batches.sequence(tuner.steps_done() * settings.batch + i);
            sequences.emplace_back(tokens.begin(), tokens.end());
        }
        const StepReport report = tuner.step(sequences);
        try {
            log.write(log_line(report, settings));
        } catch (const Error& error) {
            save();
            throw Error(std::string(error.what()) + "; the state is in " + options.checkpoint() +
                        ": go on with the same command and --resume");
        }
        progress.update(report.step, format("loss %.4f, %lld codes changed, %.2f s a step", report.loss,
                                            static_cast<long long>(report.changed), report.seconds));
        totals.seconds += report.seconds;
        totals.steps += 1;
        totals.changed += report.changed;
        if (interrupted() && tuner.steps_done() < settings.steps) {
            save();
            throw Interrupted("interrupted after step " + std::to_string(report.step) + "; the state is in " +
                              options.checkpoint() + ": go on with the same command and --resume");
        }
        const std::chrono::duration<double> unsaved = std::chrono::steady_clock::now() - saved;
        const bool due = options.checkpoint_every > 0 &&
                         (report.step % options.checkpoint_every == 0 || unsaved.count() > most_seconds_unsaved);
        if (due && report.step < settings.steps) save_if_possible();
    }
    return totals;
}

/// --resume without a checkpoint is a new run, for jobs that always give it; but not over what such a run has finished.
void refuse_to_repeat(const TuneOptions& options) {
    if (!std::filesystem::exists(options.out) || store_kind(options.out) != "weights") return;
    const StoreReader finished(options.out, "weights");
    if (!finished.has_attribute("/", "step")) return;
    throw Error(
        options.out + ": is finished, at step " + std::to_string(finished.integer("/", "step")) +
        ", and kept no checkpoint (--keep-checkpoint): name another --out, or leave --resume out to start again");
}

void run(const CommonOptions& common, TuneOptions options, const CLI::App& command) {
    options.settings.strategy = parse_strategy(options.strategy);
    options.settings.subspace = parse_subspace(options.subspace);
    options.settings.schedule = parse_schedule(options.schedule);
    options.settings.shuffle = options.order == "shuffled";
    options.settings.lamb = options.lamb == "on";
    options.settings.code_moment = parse_code_moment(options.code_moment);
    options.settings.narrow_buffer = options.code_buffer == "bf16";
    options.settings.train_dense = options.train_dense == "on";
    options.settings.seed = common.seed;
    check_settings(options.settings);
    check_outputs(options.out, common.log,
                  {{"--model", options.model}, {"--teacher", options.teacher}, {"--tokens", options.tokens}});
    check_replaces_model(options.out);
    const std::int64_t together = options.settings.sequences_together();
    if (options.settings.micro_batch > 0 &&
        together != std::min(options.settings.micro_batch, options.settings.batch)) {
        message(common, "--micro-batch " + std::to_string(options.settings.micro_batch) + " does not divide --batch " +
                            std::to_string(options.settings.batch) + ": " + std::to_string(together) +
                            " go through the model together");
    }
    const Inputs inputs = open_inputs(options);
    if (!inputs.text.warning.empty()) message(common, "warning: " + inputs.text.warning);
    if (common.device == "cuda" && options.settings.beam > most_device_beam) {
        throw Error("--beam " + std::to_string(options.settings.beam) + ": the device searches with at most " +
                    std::to_string(most_device_beam) + ": use a smaller one, or --device cpu");
    }
    if (common.device == "cpu" && options.offload != "none") {
        throw Error("--offload " + options.offload + ": the CPU computes in host memory: use it with --device cuda");
    }
    const auto backend = make_backend(common, common.dry_run);
    const std::int64_t windows = static_cast<std::int64_t>(inputs.text.tokens.size()) / options.settings.length;
    if (options.settings.batch > windows) {
        message(common, "warning: --batch " + std::to_string(options.settings.batch) + ": " + options.tokens + " has " +
                            std::to_string(windows) + " sequences of --ctx " + std::to_string(options.settings.length) +
                            ", so a step sees some of them again");
    }
    const Plan plan = make_plan(common, options, inputs);
    if (!common.dry_run) {
        check_fits(*backend, plan, memory_remedy(plan, common, options.settings));
        std::error_code none;
        const auto replaced = std::filesystem::file_size(options.checkpoint(), none);
        check_disk(options.out, plan.bytes_written - (none ? 0 : static_cast<std::int64_t>(replaced)), 2);
    }
    for (const std::string& line : flags_without_effect(command, options.settings)) {
        message(common, "warning: " + line);
    }
    if (common.dry_run) return print_plan(*backend, plan, common.json);

    // Held to the end, so that two runs with one output do not take each other's checkpoints.
    std::optional<PartialFile> held(options.out);
    std::unique_ptr<StoreReader> checkpoint;
    if (options.resume) {
        if (std::filesystem::exists(options.checkpoint())) {
            checkpoint = std::make_unique<StoreReader>(options.checkpoint(), "checkpoint");
        } else {
            refuse_to_repeat(options);
            message(common, "no checkpoint " + options.checkpoint() + "; starting at step 0");
        }
    } else if (std::filesystem::exists(options.checkpoint())) {
        check_replaces_checkpoint(options.checkpoint());
        message(common, "warning: " + options.checkpoint() +
                            " is of a run that did not end, and this one will replace it: --resume goes on with it");
    }
    watch_interrupts();
    Tuner tuner = make_tuner(*backend, common, options, inputs, checkpoint.get());
    if (checkpoint) {
        const std::string rates = tuner.load_checkpoint(*checkpoint, source_of(common, inputs));
        checkpoint.reset();
        if (tuner.steps_done() > options.settings.steps) {
            throw Error(options.checkpoint() + ": is at step " + std::to_string(tuner.steps_done()) +
                        ", beyond --steps " + std::to_string(options.settings.steps) + ": give more, or start again");
        }
        message(common, "resumed after step " + std::to_string(tuner.steps_done()) +
                            (rates.empty() ? "" : "; other rates from here on: " + rates));
    } else {
        tuner.start(inputs.student);
    }
    const RunTotals totals = tune(common, options, inputs, tuner);
    const auto save_checkpoint = [&] {
        tuner.save_checkpoint(options.checkpoint(), common.command_line, source_of(common, inputs));
    };
    std::string hash;
    held.reset();
    try {
        hash = tuner.save_model(options.out, common.command_line, inputs.student);
    } catch (const Error& error) {
        save_checkpoint();
        throw Error(std::string(error.what()) + "; the state is in " + options.checkpoint() +
                    ": the same command and --resume write the model from it");
    }
    if (options.keep_checkpoint) {
        save_checkpoint();
    } else {
        std::error_code ignored;
        std::filesystem::remove(options.checkpoint(), ignored);
    }

    const double seconds_per_step = totals.steps > 0 ? totals.seconds / static_cast<double>(totals.steps) : 0;
    std::cout << options.out << ": loss " << format("%.4f", tuner.loss()) << " after " << tuner.steps_done()
              << " steps, " << totals.changed << " code changes"
              << (totals.steps < tuner.steps_done() ? " since the resume, " : ", ") << format("%.2f", seconds_per_step)
              << " s a step, peak memory " << bytes_text(peak_memory()) << ", content hash " << hash << "\n";
    print_result(common, {{"loss", tuner.loss()},
                          {"steps", tuner.steps_done()},
                          {"seconds_per_step", seconds_per_step},
                          {"codes_changed", totals.changed},
                          {"peak_bytes", peak_memory()},
                          {"tokens_hash", inputs.text.content_hash},
                          {"precision", common.precision},
                          {"device", backend->description()},
                          {"content_hash", hash}});
}

}  // namespace

void add_tune_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<TuneOptions>();
    CLI::App* command =
        app.add_subcommand("tune", "PV-tune a quantised model: codes and codebooks, against its teacher");
    add_tune_flags(*command, *options);
    command->callback([&common, options, command] { run(common, *options, *command); });
}

}  // namespace pvtune
