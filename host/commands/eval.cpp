#include "host/commands/commands.h"
#include "host/commands/flags.h"
#include "host/common/interrupt.h"
#include "host/common/memory.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "host/common/token_store.h"
#include "host/eval/perplexity.h"
#include "host/model/cost.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

struct EvalOptions {
    std::string model;
    std::string tokens;
    std::int64_t ctx = 1024;
    std::int64_t windows = 0;
    std::string bos = "auto";
};

Plan make_plan(const CommonOptions& common, const EvalOptions& options, const StoreReader& store, const TokenText& text,
               std::int64_t windows) {
    const auto planning = make_backend(common, true);
    Model model = load_model(*planning, store, common.compute_type(), options.ctx, Residency::one_block);
    perplexity(*planning, model, text.tokens, options.ctx, windows, {});
    Plan plan = plan_of(*planning);
    (common.device == "cuda" ? plan.host_memory : plan.memory)
        .push_back({"reading", model.config.vocabulary * model.config.width * bytes_while_reading});
    plan.flops = forward_flops(model.config, windows * options.ctx, options.ctx);
    plan.bytes_read = weight_bytes(plan) + windows * options.ctx * size_of(DType::u32);
    return plan;
}

PerplexityResult measure(const CommonOptions& common, const EvalOptions& options, Backend& backend, Model& model,
                         const TokenText& text, std::int64_t windows) {
    RunLog log(common.log);
    Progress progress({"eval", windows, "windows", "tokens", static_cast<double>(options.ctx), common.quiet});
    std::int64_t before = 0;
    return perplexity(backend, model, text.tokens, options.ctx, windows, [&](std::int64_t done, double nll) {
        stop_if_interrupted();
        if (!std::isfinite(nll)) {
            throw Error(options.model + ": the loss is not finite in " +
                        (done - before > 1 ? "windows " + std::to_string(before) + " to " + std::to_string(done - 1)
                                           : "window " + std::to_string(before)) +
                        " of " + options.tokens + ": the model is damaged, or needs --precision f32");
        }
        before = done;
        progress.update(done, format("nll %.4f, perplexity %.3f", nll, std::exp(nll)));
        log.write({{"windows", done}, {"nll", nll}});
    });
}

void run(const CommonOptions& common, const EvalOptions& options) {
    const auto backend = make_backend(common, common.dry_run);
    const StoreReader store(options.model, "weights");
    const ModelConfig config = read_config(store);
    if (options.ctx > config.max_positions) {
        throw Error("--ctx " + std::to_string(options.ctx) + ": " + options.model + " has " +
                    std::to_string(config.max_positions) + " positions: use a smaller one");
    }
    if (options.windows > (std::int64_t{1} << 40) / options.ctx) throw Error("--windows: too many");
    TokenText text = read_tokens(options.tokens, config.vocabulary, options.ctx, options.windows * options.ctx);
    begin_windows(text, options.ctx, config, options.bos);
    if (!text.warning.empty()) message(common, "warning: " + text.warning);
    const std::int64_t windows = static_cast<std::int64_t>(text.tokens.size()) / options.ctx;
    if (windows < options.windows) {
        message(common, options.tokens + " has " + std::to_string(windows) + " windows of " +
                            std::to_string(options.ctx) + " tokens; all are used");
    }
    const Plan plan = make_plan(common, options, store, text, windows);
    if (common.dry_run) return print_plan(*backend, plan, common.json);
    check_fits(*backend, plan, "use a smaller --ctx");

    watch_interrupts();
    Model model = load_model(*backend, store, common.compute_type(), options.ctx, Residency::one_block);
    const PerplexityResult result = measure(common, options, *backend, model, text, windows);
    const std::optional<std::uint32_t> begin = begin_token(config, options.bos);
    const double rate = static_cast<double>(result.windows * options.ctx) / result.seconds;
    std::cout << format("perplexity %.4f (nll %.6f a token, %lld predictions)\n", result.perplexity, result.nll,
                        static_cast<long long>(result.predictions))
              << format("measured with ctx %lld, %lld windows, stride %lld, %stokenizer %s, model %s, %s, seed %llu\n",
                        static_cast<long long>(options.ctx), static_cast<long long>(result.windows),
                        static_cast<long long>(options.ctx),
                        begin ? ("begun with token " + std::to_string(*begin) + ", ").c_str() : "",
                        text.tokenizer_hash.substr(0, 12).c_str(), store.content_hash().substr(0, 12).c_str(),
                        common.precision.c_str(), static_cast<unsigned long long>(common.seed))
              << "on " << backend->description() << "\n"
              << format("%.1f s, %s tokens/s, peak memory %s\n", result.seconds, count_text(rate).c_str(),
                        bytes_text(peak_memory()).c_str());
    print_result(common, {{"perplexity", result.perplexity},
                          {"bos", begin ? nlohmann::ordered_json(*begin) : nullptr},
                          {"nll", result.nll},
                          {"tokens", result.predictions},
                          {"seconds", result.seconds},
                          {"tokens_per_second", rate},
                          {"windows", result.windows},
                          {"ctx", options.ctx},
                          {"stride", options.ctx},
                          {"precision", common.precision},
                          {"device", backend->description()},
                          {"threads", common.threads},
                          {"seed", common.seed},
                          {"tokenizer_hash", text.tokenizer_hash},
                          {"tokens_hash", text.content_hash},
                          {"model_hash", store.content_hash()},
                          {"peak_bytes", peak_memory()}});
}

}  // namespace

void add_eval_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<EvalOptions>();
    CLI::App* command = app.add_subcommand("eval", "measure a model's perplexity on a text");
    command->add_option("--model", options->model, "weights file, dense or quantised")->type_name("FILE")->required();
    command->add_option("--tokens", options->tokens, "the text, from scripts/tokenize.py, or a folder of such files")
        ->type_name("FILE")
        ->required();
    command->add_option("--ctx", options->ctx, "tokens a window; windows do not overlap")
        ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30))
        ->type_name("N")
        ->capture_default_str();
    command->add_option("--windows", options->windows, "windows from the start of the text; 0: all")
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
        ->type_name("N")
        ->capture_default_str();
    add_bos_flag(*command, options->bos, "every window, in place of its first token,");
    command->footer(
        "Perplexity is exp of the mean negative log-likelihood of a token, lower is better; the first token\n"
        "of each window is not predicted.\n"
        "Example: pvtune eval --model model.h5 --tokens test.h5 --ctx 1024 --windows 40");
    command->callback([&common, options] { run(common, *options); });
}

}  // namespace pvtune
