#include "host/export/export_model.h"

#include "host/commands/commands.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/memory.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

struct ExportOptions {
    std::string model, format, out, tokenizer_from, dtype;
    bool dense = false;
    bool round_zeros = false;
};

/// What goes beside codes has 16-bit floats there too; dense models are usually bf16.
DType dense_type(const ExportOptions& options) {
    if (options.dtype.empty()) return options.format == "hf-dense" ? DType::bf16 : DType::f16;
    if (options.dtype == "f32") return DType::f32;
    return options.dtype == "bf16" ? DType::bf16 : DType::f16;
}

void check_flags(const ExportOptions& options) {
    if (options.round_zeros && options.format != "hf-gptq")
        throw Error("--round-zeros: only hf-gptq has integer zeros; leave it out");
    if (options.dense && options.format != "gguf")
        throw Error("--dense: only for gguf; --format hf-dense writes a dense Hugging Face folder");
    if (options.format == "gguf" && options.tokenizer_from.empty())
        throw Error("--tokenizer-from: a GGUF file carries its tokenizer: name the model's Hugging Face folder");
}

Plan make_plan(const ExportPlan& found) {
    Plan plan;
    constexpr std::int64_t copies = 3;  // as stored, in f32, as written
    plan.memory = {{"largest tensor (f32, working copies)", copies * found.largest * size_of(DType::f32)}};
    plan.bytes_read = found.bytes_read;
    plan.bytes_written = found.bytes_written;
    return plan;
}

void run(const CommonOptions& common, const ExportOptions& options) {
    const auto start = std::chrono::steady_clock::now();
    check_flags(options);
    const StoreReader model(options.model, "weights");
    const ExportJob job{&model,        options.format,     options.out, options.tokenizer_from, dense_type(options),
                        options.dense, options.round_zeros};
    NamedFiles inputs{{"--model", options.model}};
    if (!options.tokenizer_from.empty()) {
        for (const std::string& file : tokenizer_files(options.tokenizer_from))
            inputs.emplace_back("--tokenizer-from", file);
    }
    check_outputs(options.out, common.log, inputs);
    const ExportPlan found = plan_export(job);
    const auto backend = make_backend(common);
    const Plan plan = make_plan(found);
    if (common.dry_run) return print_plan(*backend, plan, common.json);
    check_fits(*backend, plan, "close other programs or use a machine with more");
    const bool empty_folder = std::filesystem::is_directory(options.out);
    check_disk(empty_folder ? options.out + "/model.safetensors" : options.out, found.bytes_written);

    watch_interrupts();
    RunLog log(common.log);
    Progress progress({"export", static_cast<std::int64_t>(found.tensors.size()), "tensors", "", 1, common.quiet});
    std::int64_t done = 0;
    const ExportResult result = export_model(
        job, found, [&] { return make_cpu_backend({.threads = common.threads}); },
        [&](const std::string& name) {
            stop_if_interrupted();
            progress.update(++done, name);
            log.write({{"tensor", name}});
        });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const std::int64_t accounted = (found.accounted_bits + 7) / 8;
    if (options.format != "gguf" && options.tokenizer_from.empty())
        message(common, options.out + " has no tokenizer: --tokenizer-from FOLDER copies one");
    std::cout << options.out << ": " << options.format << ", " << found.tensors.size() << " tensors, "
              << bytes_text(result.bytes) << " (" << bytes_text(accounted) << " accounted)";
    if (result.rounding.squared_error > 0)
        std::cout << format(", matrices rounded with a relative MSE of %.3g", result.rounding.relative_mse());
    std::cout << format(", %.1f s\n", seconds);
    print_result(common, {{"format", options.format},
                          {"tensors", found.tensors.size()},
                          {"parameters", found.weights},
                          {"bytes", result.bytes},
                          {"accounted_bytes", accounted},
                          {"rounding_relative_mse", result.rounding.relative_mse()},
                          {"seconds", seconds},
                          {"peak_bytes", peak_memory()}});
}

}  // namespace

void add_export_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<ExportOptions>();
    CLI::App* command = app.add_subcommand("export", "write a model for other programs: Hugging Face folders, GGUF");
    command->add_option("--model", options->model, "weights file, dense or quantised")->type_name("FILE")->required();
    command->add_option("--format", options->format, "what to write, see below")
        ->check(CLI::IsMember({"hf-aqlm", "hf-gptq", "hf-dense", "gguf"}))
        ->required();
    command->add_option("--out", options->out, "folder to make; gguf: file to write. Nothing may be there yet")
        ->type_name("PATH")
        ->required();
    command
        ->add_option("--tokenizer-from", options->tokenizer_from,
                     "Hugging Face folder whose tokenizer goes along; gguf needs one")
        ->type_name("DIR");
    command
        ->add_option("--dtype", options->dtype,
                     "of what is not quantised: f16, bf16 or f32 (default: bf16 for hf-dense, else f16)")
        ->check(CLI::IsMember({"f16", "bf16", "f32"}));
    command->add_flag("--dense", options->dense, "gguf: dequantise scalar matrices too");
    command->add_flag("--round-zeros", options->round_zeros,
                      "hf-gptq: round zeros to the integers that GPTQ has; the result says what it costs");
    command->footer(
        "hf-aqlm   vq and aqlm as they are, for transformers with the aqlm package\n"
        "hf-gptq   scalar of 2, 3, 4 or 8 bits, for transformers with GPTQModel\n"
        "hf-dense  any model, dequantised\n"
        "gguf      llama.cpp: scalar up to 5 bits in blocks of Q4_1 or Q5_1, the rest dequantised\n"
        "Example: pvtune export --model tuned.h5 --format hf-aqlm --out tuned-aqlm --tokenizer-from SmolLM2-135M");
    command->callback([&common, options] { run(common, *options); });
}

}  // namespace pvtune
