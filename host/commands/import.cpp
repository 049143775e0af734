#include "host/model/import.h"

#include "host/commands/commands.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/memory.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

struct ImportOptions {
    std::string from;
    std::string out;
};

/// What an import reads; other files of the folder may be of earlier runs.
NamedFiles inputs_of(const std::string& from) {
    NamedFiles files;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(from, none)) {
        const std::string name = entry.path().filename().string();
        if (name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
            files.emplace_back("--from", entry.path().string());
    }
    return files;
}

void run(const CommonOptions& common, const ImportOptions& options) {
    const auto start = std::chrono::steady_clock::now();
    const auto backend = make_backend(common);
    const ImportPlan found = plan_import(options.from);
    Plan plan;
    plan.memory = {{"largest tensor", found.largest}};
    plan.bytes_read = found.bytes;
    plan.bytes_written = found.bytes;
    if (common.dry_run) return print_plan(*backend, plan, common.json);
    check_outputs(options.out, common.log, inputs_of(options.from));
    check_replaces_model(options.out);
    check_fits(*backend, plan, "close other programs or use a machine with more");
    check_disk(options.out, found.bytes);

    watch_interrupts();
    RunLog log(common.log);
    Progress progress({"import", found.parameters, "weights", "", 1, common.quiet});
    std::int64_t done = 0;
    const ImportResult result = import_model(options.from, options.out, common.command_line,
                                             [&](const std::string& name, std::int64_t weights) {
                                                 stop_if_interrupted();
                                                 done += weights;
                                                 progress.update(done, name);
                                                 log.write({{"tensor", name}, {"weights", weights}});
                                             });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::cout << options.out << ": " << result.tensors << " tensors, "
              << count_text(static_cast<double>(result.parameters)) << " parameters, " << bytes_text(result.bytes)
              << ", content hash " << result.content_hash << "\n";
    print_result(common, {{"parameters", result.parameters},
                          {"tensors", result.tensors},
                          {"bytes", result.bytes},
                          {"seconds", seconds},
                          {"content_hash", result.content_hash},
                          {"peak_bytes", peak_memory()}});
}

}  // namespace

void add_import_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<ImportOptions>();
    CLI::App* command = app.add_subcommand("import", "read a Hugging Face folder into a weights file");
    command->add_option("--from", options->from, "folder with config.json and model.safetensors (or its shards)")
        ->type_name("DIR")
        ->required();
    command->add_option("--out", options->out, "weights file to write (HDF5); tensors keep their type")
        ->type_name("FILE")
        ->required();
    command->footer(
        "Families (model_type): llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text; see docs/families.md.\n"
        "A GGUF file: scripts/gguf_to_hf.py makes such a folder.\n"
        "Example: pvtune import --from SmolLM2-135M --out model.h5");
    command->callback([&common, options] { run(common, *options); });
}

}  // namespace pvtune
