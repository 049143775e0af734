#include "host/eval/score.h"

#include "host/commands/commands.h"
#include "host/commands/flags.h"
#include "host/common/disk.h"
#include "host/common/interrupt.h"
#include "host/common/memory.h"
#include "host/common/plan.h"
#include "host/common/progress.h"
#include "host/common/run_log.h"
#include "host/common/text.h"
#include "host/common/text_file.h"
#include "host/eval/score_requests.h"
#include "host/model/cost.h"
#include "io/error.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

struct ScoreOptions {
    std::string model;
    std::string requests;
    std::string tokenizer;
    std::string out, bos = "auto";
    std::int64_t ctx = 0;
};

struct Work {
    std::int64_t longest = 0;    ///< tokens of a request that go through the model
    std::int64_t processed = 0;  ///< of all requests
    std::int64_t predicted = 0;
};

Work work_of(const ScoreFile& file) {
    Work work;
    for (const ScoreRequest& request : file.requests) {
        work.longest = std::max(work.longest, request.length());
        work.processed += request.length();
        work.predicted += request.predicted;
    }
    return work;
}

constexpr std::int64_t answer_bytes = 128;

Plan make_plan(const CommonOptions& common, const StoreReader& store, const ScoreFile& file, const Work& work) {
    const auto planning = make_backend(common, true);
    Model model = load_model(*planning, store, common.compute_type(), work.longest, Residency::one_block);
    score(*planning, model, file.requests, {});
    Plan plan = plan_of(*planning);
    plan.flops = forward_flops(model.config, work.processed, work.longest);
    plan.bytes_read = weight_bytes(plan);
    plan.bytes_written = static_cast<std::int64_t>(file.requests.size()) * answer_bytes;
    return plan;
}

void write_answers(const ScoreOptions& options, const ScoreFile& file, const std::vector<Score>& scores) {
    TextFile out(options.out);
    for (std::size_t i = 0; i < scores.size(); ++i) {
        if (!std::isfinite(scores[i].log_likelihood)) {
            throw Error(options.requests + ", line " + std::to_string(file.lines[i]) +
                        ": its log-likelihood is not finite: " + options.model +
                        " is damaged, or needs --precision f32");
        }
        out.write(json_line({{"id", file.ids[i]},
                             {"loglikelihood", scores[i].log_likelihood},
                             {"tokens", file.requests[i].predicted},
                             {"is_greedy", scores[i].greedy}}) +
                  "\n");
    }
    out.commit();
}

void run(const CommonOptions& common, const ScoreOptions& options) {
    const auto backend = make_backend(common, common.dry_run);
    const StoreReader store(options.model, "weights");
    const ModelConfig config = read_config(store);
    const std::int64_t ctx = options.ctx > 0 ? options.ctx : config.max_positions;
    if (ctx > config.max_positions) {
        throw Error("--ctx " + std::to_string(ctx) + ": " + options.model + " has " +
                    std::to_string(config.max_positions) + " positions: use a smaller one");
    }
    check_outputs(options.out, common.log,
                  {{"--model", options.model}, {"--requests", options.requests}, {"--tokenizer", options.tokenizer}});
    check_replaces_json("--out", options.out);
    const ScoreFile file =
        read_score_requests(options.requests, options.tokenizer, config, ctx, begin_token(config, options.bos));
    const Work work = work_of(file);
    const auto count = static_cast<std::int64_t>(file.requests.size());
    const Plan plan = make_plan(common, store, file, work);
    if (common.dry_run) return print_plan(*backend, plan, common.json);
    check_fits(*backend, plan, "use a smaller --ctx");
    check_disk(options.out, plan.bytes_written);
    if (file.cut > 0) {
        message(common, std::to_string(file.cut) + " of " + std::to_string(count) +
                            " contexts were cut on the left to --ctx " + std::to_string(ctx));
    }

    watch_interrupts();
    Model model = load_model(*backend, store, common.compute_type(), work.longest, Residency::one_block);
    RunLog log(common.log);
    Progress progress({"score", work.processed, "tokens", "", 1, common.quiet});
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Score> scores =
        score(*backend, model, file.requests, [&](std::int64_t tokens, std::int64_t requests) {
            stop_if_interrupted();
            progress.update(tokens, std::to_string(requests) + "/" + std::to_string(count) + " requests");
            log.write({{"tokens", tokens}, {"requests", requests}});
        });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    write_answers(options, file, scores);
    const double rate = static_cast<double>(work.processed) / seconds;
    std::cout << options.out << ": " << count << " requests, "
              << format("%lld tokens scored, ctx %lld, model %s, %s, %.1f s, %s tokens/s\n",
                        static_cast<long long>(work.predicted), static_cast<long long>(ctx),
                        store.content_hash().substr(0, 12).c_str(), common.precision.c_str(), seconds,
                        count_text(rate).c_str());
    print_result(common, {{"requests", count},
                          {"tokens", work.predicted},
                          {"tokens_processed", work.processed},
                          {"seconds", seconds},
                          {"tokens_per_second", rate},
                          {"contexts_cut", file.cut},
                          {"ctx", ctx},
                          {"precision", common.precision},
                          {"device", backend->description()},
                          {"threads", common.threads},
                          {"model_hash", store.content_hash()},
                          {"peak_bytes", peak_memory()}});
}

}  // namespace

void add_score_command(CLI::App& app, CommonOptions& common) {
    auto options = std::make_shared<ScoreOptions>();
    CLI::App* command = app.add_subcommand("score", "log-likelihoods of continuations, JSON lines in and out");
    command->add_option("--model", options->model, "weights file, dense or quantised")->type_name("FILE")->required();
    command->add_option("--requests", options->requests, "a line {\"context\", \"continuation\", \"id\"?} each")
        ->type_name("FILE")
        ->required();
    command->add_option("--out", options->out, "answers, a line each in the same order")->type_name("FILE")->required();
    command->add_option("--tokenizer", options->tokenizer, "the model's own tokenizer.json, where requests hold texts")
        ->type_name("FILE");
    command->add_option("--ctx", options->ctx, "tokens at most; longer contexts are cut on the left (0: the model's)")
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30))
        ->type_name("N")
        ->capture_default_str();
    add_bos_flag(*command, options->bos, "contexts that are texts");
    command->footer(
        "Context and continuation are lists of tokens, or texts. An answer is\n"
        "{\"id\", \"loglikelihood\" (nats, summed), \"tokens\" (of the continuation), \"is_greedy\"}.\n"
        "Example: pvtune score --model q.h5 --tokenizer tokenizer.json --requests in.jsonl --out out.jsonl");
    command->callback([&common, options] { run(common, *options); });
}

}  // namespace pvtune
