#include "host/commands/tune_options.h"

#include "host/commands/flags.h"

#include <CLI/CLI.hpp>

namespace pvtune {

namespace {

void add_rates(CLI::App& command, TuneSettings& settings, TuneOptions& options) {
    const auto positive = real_range(0.0, 1e6);
    command.add_option("--lr", settings.rate, "rate of codebooks, scales, norms, embedding")
        ->check(positive)
        ->capture_default_str();
    command.add_option("--beta1", settings.beta1, "Adam's, of the P step")
        ->check(real_range(0.0, 0.9999))
        ->capture_default_str();
    command.add_option("--beta2", settings.beta2, "Adam's, of the P step")
        ->check(real_range(0.0, 0.99999))
        ->capture_default_str();
    command
        .add_option("--code-lr", settings.code_rate,
                    "rate of the V step's target, where no subspace is larger: of the "
                    "straight-through buffer (ste, pv-ste), naive-linearized, "
                    "stochastic-rounding")
        ->check(positive)
        ->capture_default_str();
    command.add_option("--subspace-lr", settings.subspace_rate, "rate inside the chosen subspace (pv)")
        ->check(positive)
        ->capture_default_str();
    command.add_option("--code-beta2", settings.code_beta2, "second-moment decay of the V step")
        ->check(real_range(0.0, 0.99999))
        ->capture_default_str();
    command
        .add_option("--code-moment", options.code_moment,
                    "second moments of the V step: one a weight (4 bytes, 2 in bf16), or one f32 for the weights of a "
                    "group (scalar: for 8 neighbours)")
        ->check(CLI::IsMember({"weight", "group"}))
        ->capture_default_str();
    command
        .add_option("--code-buffer", options.code_buffer,
                    "straight-through buffers (ste, pv-ste): f32, or bf16 rounded by chance at half the memory")
        ->check(CLI::IsMember({"f32", "bf16"}))
        ->capture_default_str();
    command.add_option("--lamb", options.lamb, "scale updates to the tensor's norm")
        ->check(CLI::IsMember({"on", "off"}))
        ->capture_default_str();
    command.add_option("--schedule", options.schedule, "of both rates")
        ->check(CLI::IsMember({"constant", "linear", "cosine"}))
        ->capture_default_str();
    command.add_option("--warmup", settings.warmup, "steps over which the rates rise")
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
        ->capture_default_str();
    command
        .add_option("--final-rate", settings.final_rate,
                    "share of the rates that is left at the last step of a falling schedule")
        ->check(real_range(0.0, 1.0))
        ->capture_default_str();
}

void add_v_step(CLI::App& command, TuneSettings& settings, TuneOptions& options) {
    const auto positive = real_range(0.0, 1e6);
    const auto temperature = real_range(1e-3, 1e3);
    const auto count = CLI::Range(std::int64_t{1}, std::int64_t{1} << 40);
    command.add_option("--tau", settings.tau, "share of a matrix's groups that a V step may re-assign")
        ->check(real_range(0.0, 1.0))
        ->capture_default_str();
    command
        .add_option("--trust-ratio", settings.trust_ratio,
                    "bound on the relative change of a matrix in a V step; 0: none")
        ->check(positive)
        ->capture_default_str();
    command.add_option("--beam", settings.beam, "of the search for codes; 0: 5 with several codebooks, else 1")
        ->check(CLI::Range(0, 64))
        ->capture_default_str();
    command
        .add_option("--subspace", options.subspace,
                    "which groups a V step of pv and pv-ste may re-assign: topk: those that want to move most; sample: "
                    "drawn by how much they want to; random; block: blocks in turn; layer-budget: topk with tau shared "
                    "by the whole model; eager (pv): by the change of code that pays first")
        ->check(CLI::IsMember({"topk", "sample", "random", "block", "layer-budget", "eager"}))
        ->capture_default_str();
    command
        .add_option("--subspace-temperature", settings.subspace_temperature,
                    "T of --subspace sample: drawn with probability score^(1/T)")
        ->check(temperature)
        ->capture_default_str();
    command
        .add_option("--candidates", settings.candidates,
                    "groups searched for each that may change; of those whose codes differ, the ones that come nearest "
                    "to their target stay changed")
        ->check(count)
        ->capture_default_str();
    command.add_flag("--force-codes", settings.force_codes,
                     "the chosen groups take their best code other than the one they have (pv)");
    command
        .add_option("--rounding-temperature", settings.rounding_temperature,
                    "T of stochastic-rounding: second code with odds (nearest distance / second distance)^(1/T)")
        ->check(temperature)
        ->capture_default_str();
    command.add_option("--v-every", settings.v_every, "steps a V step, which goes by the mean of their gradients")
        ->check(count)
        ->capture_default_str();
    command.add_flag("--measure-v", settings.measure_v,
                     "log what each V step changes of its batch's loss (two more forward passes) and how many codes "
                     "go back to where they were");
}

}  // namespace

std::vector<std::string> flags_without_effect(const CLI::App& command, const TuneSettings& settings) {
    const Strategy strategy = settings.strategy;
    const bool pv = strategy == Strategy::pv;
    const bool moves_codes = settings.moves_codes();
    const bool eager = settings.subspace == Subspace::eager;
    const std::string by_strategy = "--strategy " + name_of(strategy);
    const std::string by_subspace = "--subspace " + name_of(settings.subspace);
    const char* with_codes = "the strategies that move codes use it";
    const bool tunes = strategy != Strategy::calibration_only;
    const char* by_others = "all others use it";
    const FlagUse flags[] = {
        {"--lr", tunes, by_strategy, by_others},
        {"--beta1", tunes, by_strategy, by_others},
        {"--beta2", tunes, by_strategy, by_others},
        {"--lamb", tunes, by_strategy, by_others},
        {"--schedule", tunes, by_strategy, by_others},
        {"--warmup", tunes, by_strategy, by_others},
        {"--train-dense", tunes, by_strategy, by_others},
        {"--code-lr", moves_codes && !pv, by_strategy, "naive-linearized, stochastic-rounding, ste and pv-ste use it"},
        {"--subspace-lr", pv && !eager, pv ? by_subspace : by_strategy, "pv with other subspaces uses it"},
        {"--tau", settings.has_subspace(), by_strategy, "pv and pv-ste use it"},
        {"--rounding-temperature", strategy == Strategy::stochastic_rounding, by_strategy,
         "stochastic-rounding uses it"},
        {"--subspace-temperature", settings.subspace == Subspace::sample, by_subspace, "sample uses it"},
        {"--beam", moves_codes && !eager, eager ? by_subspace : by_strategy, "searches for the nearest codes use it"},
        {"--code-beta2", moves_codes, by_strategy, with_codes},
        {"--code-moment", moves_codes, by_strategy, with_codes},
        {"--trust-ratio", moves_codes, by_strategy, with_codes},
        {"--v-every", moves_codes, by_strategy, with_codes},
        {"--measure-v", moves_codes, by_strategy, with_codes},
        {"--final-rate", settings.schedule != Schedule::constant, "--schedule constant", "falling schedules use it"}};
    return flags_without_effect(command, flags);
}

void add_tune_flags(CLI::App& command, TuneOptions& options) {
    TuneSettings& settings = options.settings;
    const auto count = CLI::Range(std::int64_t{1}, std::int64_t{1} << 40);
    command.add_option("--model", options.model, "quantised weights, from pvtune quantize")
        ->type_name("FILE")
        ->required();
    command.add_option("--teacher", options.teacher, "the unquantised weights")->type_name("FILE")->required();
    command
        .add_option("--tokens", options.tokens, "text to tune on, from scripts/tokenize.py, or a folder of such files")
        ->type_name("FILE")
        ->required();
    command.add_option("--out", options.out, "tuned weights")->type_name("FILE")->required();
    command
        .add_option("--strategy", options.strategy,
                    "what moves (docs/tuning.md): calibration-only: nothing, the loss is measured; continuous: all but "
                    "codes; every group's codes: naive-linearized, stochastic-rounding, ste; those of a chosen "
                    "subspace: pv (from the weights as they are), pv-ste (from a straight-through buffer)")
        ->check(CLI::IsMember(
            {"calibration-only", "continuous", "naive-linearized", "stochastic-rounding", "ste", "pv", "pv-ste"}))
        ->capture_default_str();
    command.add_option("--steps", settings.steps, "optimizer steps in all, those before a resume too")
        ->check(count)
        ->capture_default_str();
    command.add_option("--batch", settings.batch, "sequences a step")
        ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
        ->capture_default_str();
    command
        .add_option("--micro-batch", settings.micro_batch,
                    "sequences that go through the model together; 0: about 4096 tokens")
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
        ->capture_default_str();
    command.add_option("--ctx", settings.length, "tokens a sequence")
        ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30))
        ->capture_default_str();
    add_bos_flag(command, options.bos, "every sequence, in place of its first token,");
    command.add_option("--order", options.order, "of the sequences: a new shuffle every epoch, or as in the file")
        ->check(CLI::IsMember({"shuffled", "sequential"}))
        ->capture_default_str();
    command.add_option("--train-dense", options.train_dense, "tune norms, biases, embedding and head as well")
        ->check(CLI::IsMember({"on", "off"}))
        ->capture_default_str();
    add_rates(command, settings, options);
    add_v_step(command, settings, options);
    command
        .add_option("--activations", options.activations,
                    "keep them for the backward pass, recompute them, or by memory")
        ->check(CLI::IsMember({"auto", "keep", "recompute"}))
        ->capture_default_str();
    command
        .add_option("--offload", options.offload,
                    "what waits in host memory and comes to the device beside its work: the teacher's weights, the "
                    "inputs of the blocks, or all of it (--device cuda; the results have the same bits)")
        ->check(CLI::IsMember({"none", "teacher", "inputs", "all"}))
        ->capture_default_str();
    command
        .add_option("--checkpoint-every", options.checkpoint_every,
                    "steps between checkpoints (OUT.checkpoint), also written after 10 minutes without one; 0: only on "
                    "Ctrl-C")
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
        ->capture_default_str();
    command.add_flag("--keep-checkpoint", options.keep_checkpoint,
                     "leave one at the end, so that --resume with more --steps goes on (--schedule constant: falling "
                     "rates depend on --steps)");
    command.add_flag("--resume", options.resume,
                     "go on from OUT.checkpoint; the result has the bits of a run that was not stopped");
    command.footer(
        "The defaults are the published ones, made for long runs with large batches; a short run with small\n"
        "batches wants larger rates.\n"
        "Example: pvtune tune --model q.h5 --teacher model.h5 --tokens tokens.h5 --steps 100 --batch 2 \\\n"
        "             --lr 1e-3 --code-lr 5e-2 --precision bf16 --out tuned.h5");
}

}  // namespace pvtune
