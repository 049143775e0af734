#include "host/eval/generate.h"

#include "host/commands/commands.h"
#include "host/commands/flags.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/memory.h"
#include "host/common/plan.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "host/eval/tokenizer_process.h"
#include "host/model/cost.h"
#include "host/quant/random.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace pvtune {

namespace {

struct GenerateOptions {
    std::string model;
    std::string tokenizer;
    std::string prompt, prompt_file, bos = "auto";

    const char* prompt_flag() const { return prompt_file.empty() ? "--prompt" : "--prompt-file"; }
    std::int64_t max_tokens = 64;
    SamplingSettings sampling;
};

/// Tokens that end a text, from the config: one, several or none.
std::vector<std::uint32_t> end_tokens(const ModelConfig& config) {
    std::vector<std::uint32_t> ends;
    const nlohmann::json json = nlohmann::json::parse(config.json);
    const auto found = json.find("eos_token_id");
    if (found == json.end()) return ends;
    const auto add = [&](const nlohmann::json& id) {
        if (id.is_number_unsigned()) ends.push_back(id.get<std::uint32_t>());
    };
    if (found->is_array()) {
        for (const auto& id : *found) add(id);
    } else {
        add(*found);
    }
    return ends;
}

std::string prompt_of(const GenerateOptions& options) {
    if (options.prompt_file.empty()) return options.prompt;
    std::ifstream file;
    if (options.prompt_file != "-") {
        file.open(options.prompt_file, std::ios::binary);
        if (!file || std::filesystem::is_directory(options.prompt_file))
            throw Error("--prompt-file " + options.prompt_file + ": cannot be read: name a text file");
    }
    std::ostringstream text;
    text << (options.prompt_file == "-" ? std::cin : file).rdbuf();
    return text.str();
}

std::vector<std::uint32_t> encode_prompt(TokenizerProcess& tokenizer, const GenerateOptions& options,
                                         const ModelConfig& config) {
    const std::vector<std::uint32_t> tokens = tokenizer.encode(prompt_of(options));
    if (tokens.empty()) throw Error(std::string(options.prompt_flag()) + ": holds no token: give at least one word");
    for (const std::uint32_t token : tokens) {
        if (static_cast<std::int64_t>(token) >= config.vocabulary) {
            throw Error(options.tokenizer + ": gives token " + std::to_string(token) +
                        ", outside the model's vocabulary of " + std::to_string(config.vocabulary) +
                        ": name the model's own tokenizer.json");
        }
    }
    const auto needed = static_cast<std::int64_t>(tokens.size()) + options.max_tokens;
    if (needed > config.max_positions) {
        throw Error("--max-tokens " + std::to_string(options.max_tokens) + ": with the prompt's " +
                    std::to_string(tokens.size()) + " tokens more than the model's " +
                    std::to_string(config.max_positions) + " positions");
    }
    return tokens;
}

/// Prints the text as it grows. Decoding a token alone would lose spaces and split characters, so the whole is decoded
/// and what is new and complete is printed.
class Stream {
public:
    Stream(TokenizerProcess& tokenizer, const std::vector<std::uint32_t>& prompt)
        : tokenizer_(tokenizer), tokens_(prompt), text_(tokenizer.decode(prompt)) {
        print(text_.size());
    }
    void add(std::uint32_t token) {
        tokens_.push_back(token);
        text_ = tokenizer_.decode(tokens_);
        // A character of which bytes are missing decodes to U+FFFD at the end: the next token may complete it.
        const std::string_view replacement = "\xef\xbf\xbd";
        std::size_t whole = text_.size();
        while (std::string_view(text_).substr(0, whole).ends_with(replacement)) whole -= replacement.size();
        print(whole);
    }
    void end() {
        print(text_.size());
        std::cout << "\n";
    }
    std::string text() const { return text_; }

private:
    void print(std::size_t end) {
        if (end <= printed_) return;
        std::cout << std::string_view(text_).substr(printed_, end - printed_) << std::flush;
        printed_ = end;
    }
    TokenizerProcess& tokenizer_;
    std::vector<std::uint32_t> tokens_;
    std::string text_;
    std::size_t printed_ = 0;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void run(const CommonOptions& common, const GenerateOptions& options) {
    const auto backend = make_backend(common, common.dry_run);
    const StoreReader store(options.model, "weights");
    const ModelConfig config = read_config(store);
    check_outputs("", common.log, {{"--tokenizer", options.tokenizer}, {"--prompt-file", options.prompt_file}});
    TokenizerProcess tokenizer(options.tokenizer);
    const std::vector<std::uint32_t> prompt = encode_prompt(tokenizer, options, config);
    std::vector<std::uint32_t> read = prompt;
    const std::optional<std::uint32_t> begin = begin_token(config, options.bos);
    if (begin && prompt.front() != *begin) read.insert(read.begin(), *begin);
    const std::int64_t capacity = static_cast<std::int64_t>(read.size()) + options.max_tokens;

    const auto planning = make_backend(common, true);
    const Model planned = load_model(*planning, store, common.compute_type(), capacity, Residency::codes);
    const Decoder planned_decoder(*planning, planned, capacity);
    Plan plan = plan_of(*planning);
    plan.flops = forward_flops(config, capacity, capacity);
    plan.bytes_read = weight_bytes(plan);
    if (common.dry_run) return print_plan(*backend, plan, common.json);
    check_fits(*backend, plan, "use a smaller --max-tokens");

    watch_interrupts();
    const Model model = load_model(*backend, store, common.compute_type(), capacity, Residency::codes);
    Decoder decoder(*backend, model, capacity);
    const auto start = std::chrono::steady_clock::now();
    Tensor device_logits;
    for (const std::uint32_t token : read) {
        stop_if_interrupted();
        device_logits = decoder.step(token);
    }
    const double prompt_seconds = seconds_since(start);

    const std::vector<std::uint32_t> ends = end_tokens(config);
    RunLog log(common.log);
    Random random(common.seed);
    Stream stream(tokenizer, prompt);
    std::vector<float> host(static_cast<std::size_t>(config.vocabulary));
    std::int64_t generated = 0;
    bool ended = false;
    const auto generation_start = std::chrono::steady_clock::now();
    while (generated < options.max_tokens && !interrupted() && std::cout) {
        backend->download(host.data(), device_logits);
        const std::uint32_t next = sample(host, options.sampling, random.uniform());
        ended = std::find(ends.begin(), ends.end(), next) != ends.end();
        if (ended) break;
        ++generated;
        stream.add(next);
        log.write({{"token", next}, {"position", decoder.position()}});
        if (generated < options.max_tokens) device_logits = decoder.step(next);
    }
    stream.end();
    if (interrupted()) throw Interrupted("interrupted after " + std::to_string(generated) + " tokens");
    const double seconds = seconds_since(generation_start);
    const double rate = seconds > 0 ? static_cast<double>(generated) / seconds : 0;
    message(common, format("%lld tokens, %.1f tokens/s (prompt: %zu tokens in %.2f s), %s, %s",
                           static_cast<long long>(generated), rate, prompt.size(), prompt_seconds,
                           ended ? "the model ended the text" : "cut at --max-tokens", common.precision.c_str()));
    print_result(common, {{"text", stream.text()},
                          {"prompt_tokens", prompt.size()},
                          {"tokens", generated},
                          {"seconds", seconds},
                          {"tokens_per_second", rate},
                          {"temperature", options.sampling.temperature},
                          {"top_p", options.sampling.top_p},
                          {"seed", common.seed},
                          {"precision", common.precision},
                          {"device", backend->description()},
                          {"model_hash", store.content_hash()},
                          {"peak_bytes", peak_memory()}});
}

}  // namespace

void add_generate_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<GenerateOptions>();
    CLI::App* command = app.add_subcommand("generate", "continue a text with a model");
    command->add_option("--model", options->model, "weights file, dense or quantised")->type_name("FILE")->required();
    command->add_option("--tokenizer", options->tokenizer, "the model's own tokenizer.json")
        ->type_name("FILE")
        ->required();
    auto* prompt = command->add_option("--prompt", options->prompt, "the text to continue")->type_name("TEXT");
    command->add_option("--prompt-file", options->prompt_file, "a file that holds it, - for standard input")
        ->type_name("FILE")
        ->excludes(prompt);
    command->add_option("--max-tokens", options->max_tokens, "tokens to add at most")
        ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
        ->type_name("N")
        ->capture_default_str();
    command
        ->add_option("--temperature", options->sampling.temperature,
                     "0: always the most likely token; 1: as the model says")
        ->check(real_range(0.0, 100.0))
        ->type_name("T")
        ->capture_default_str();
    command->add_option("--top-p", options->sampling.top_p, "draw from the likeliest tokens that hold this probability")
        ->check(real_range(0.0, 1.0))
        ->type_name("P")
        ->capture_default_str();
    add_bos_flag(*command, options->bos, "the prompt");
    command->footer(
        "The text goes to standard output as it grows; no chat template is applied.\n"
        "Example: pvtune generate --model q.h5 --tokenizer tokenizer.json --prompt \"The city of\"");
    command->callback([&common, options, prompt] {
        if (prompt->count() == 0 && options->prompt_file.empty())
            throw Error("--prompt or --prompt-file is needed (see pvtune generate --help)");
        run(common, *options);
    });
}

}  // namespace pvtune
