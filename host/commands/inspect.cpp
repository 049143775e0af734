#include "host/commands/inspect_weights.h"

#include "host/commands/commands.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
    std::string file;
    std::string against;
    bool tensors = false;
    bool verify = false;
};

void inspect_tokens(const StoreReader& store, Json& result) {
    const TensorInfo info = store.info("/tokens");
    if (info.dtype != DType::u32 || info.shape.size() != 1)
        throw Error(store.path() + ": /tokens is not a list of u32");
    constexpr std::int64_t shown = 16;
    std::vector<std::uint32_t> first(static_cast<std::size_t>(std::min(shown, info.shape[0])));
    store.read_rows("/tokens", 0, static_cast<std::int64_t>(first.size()), first.data());
    result["tokens"] = info.shape[0];
    for (const char* name : {"tokenizer", "tokenizer_hash", "newlines"}) {
        if (store.has_attribute("/tokens", name)) result[name] = store.text("/tokens", name);
    }
    if (store.has_attribute("/tokens", "vocabulary")) result["vocabulary"] = store.integer("/tokens", "vocabulary");
    result["first"] = first;
    std::cout << "tokens         " << info.shape[0] << "\n";
    for (const char* name : {"tokenizer", "tokenizer_hash", "vocabulary", "first"}) {
        if (result.contains(name))
            std::cout << format("%-14s ", name)
                      << one_line(result[name].is_string() ? result[name].get<std::string>() : result[name].dump())
                      << "\n";
    }
}

/// What any other kind holds: attributes of the root and how much data.
void inspect_other(const StoreReader& store, Json& result) {
    if (store.has_attribute("/", "step")) {
        result["step"] = store.integer("/", "step");
        std::cout << "step           " << store.integer("/", "step") << "\n";
    }
    for (const char* name : {"settings", "source", "quantization"}) {
        if (!store.has_attribute("/", name)) continue;
        result[name] = store.text("/", name);
        std::cout << format("%-14s ", name) << one_line(store.text("/", name)) << "\n";
    }
    const std::vector<std::string> groups = store.children("/");
    result["groups"] = groups;
    std::cout << "holds          " << Json(groups).dump() << "\n";
}

void run(const CommonOptions& common, const InspectOptions& options) {
    make_backend(common);  // refuses devices that this build lacks
    if (!common.log.empty()) throw Error("--log: inspect has no steps to log; use --json");
    const StoreReader store(options.file, "");
    const std::string kind = store_kind(options.file);
    if (!options.against.empty() && kind != "weights") {
        throw Error("--against: only weights can be compared, " + options.file + " is a " + kind + " file");
    }
    if (options.verify && !common.dry_run) store.verify();
    Json result{{"file", options.file},
                {"kind", kind},
                {"format_version", store.integer("/", "format_version")},
                {"command", store.command()},
                {"content_hash", store.content_hash()},
                {"verified", options.verify},
                {"file_bytes", std::filesystem::file_size(options.file)}};
    std::cout << options.file << ": " << kind << ", format " << store.integer("/", "format_version") << ", "
              << bytes_text(static_cast<std::int64_t>(std::filesystem::file_size(options.file))) << "\n"
              << "made by        " << one_line(store.command()) << "\n"
              << "content hash   " << store.content_hash() << (options.verify ? " (recomputed: holds)" : "") << "\n";
    if (kind == "weights") {
        inspect_weights(common, store, options.against, options.tensors, result);
    } else if (kind == "tokens") {
        inspect_tokens(store, result);
    } else {
        inspect_other(store, result);
    }
    print_result(common, result);
}

}  // namespace

void add_inspect_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<InspectOptions>();
    CLI::App* command = app.add_subcommand("inspect", "show what a file holds");
    command->add_option("file", options->file, "weights, tokens, checkpoint or calibrated block file")
        ->type_name("FILE")
        ->required();
    command->add_flag("--tensors", options->tensors, "list every tensor, not the sums by kind");
    command->add_flag("--verify", options->verify, "read all data and compare it with the content hash");
    command->add_option("--against", options->against, "dense weights file: gives relative_mse = |W - What|^2 / |W|^2")
        ->type_name("FILE");
    command->footer(
        "Bits a weight count codes, codebooks and scales of the blocks' matrices.\n"
        "Example: pvtune inspect q.h5 --against model.h5 --json");
    command->callback([&common, options] { run(common, *options); });
}

}  // namespace pvtune
