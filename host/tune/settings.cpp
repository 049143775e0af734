#include "host/tune/settings.h"

#include "host/common/text.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <stdexcept>
#include <utility>

namespace pvtune {

std::int64_t TuneSettings::sequences_together() const {
    constexpr std::int64_t tokens_together = 4096;
    const std::int64_t wanted = micro_batch > 0 ? micro_batch : std::max<std::int64_t>(1, tokens_together / length);
    // The batch is cut evenly, so that every micro-batch has the same buffers.
    std::int64_t together = std::min(wanted, batch);
    while (batch % together != 0) --together;
    return together;
}

double rate_factor(const TuneSettings& settings, std::int64_t step) {
    if (step < settings.warmup) return static_cast<double>(step + 1) / static_cast<double>(settings.warmup);
    if (settings.schedule == Schedule::constant) return 1;
    const double span = static_cast<double>(std::max<std::int64_t>(1, settings.steps - 1 - settings.warmup));
    const double done = std::min(1.0, static_cast<double>(step - settings.warmup) / span);
    const double falling =
        settings.schedule == Schedule::linear ? 1 - done : 0.5 * (1 + std::cos(std::numbers::pi * done));
    return settings.final_rate + (1 - settings.final_rate) * falling;
}

namespace {

constexpr std::pair<Strategy, const char*> strategies[] = {
    {Strategy::calibration_only, "calibration-only"},
    {Strategy::continuous, "continuous"},
    {Strategy::naive_linearized, "naive-linearized"},
    {Strategy::stochastic_rounding, "stochastic-rounding"},
    {Strategy::ste, "ste"},
    {Strategy::pv, "pv"},
    {Strategy::pv_ste, "pv-ste"},
};
constexpr std::pair<CodeMoment, const char*> code_moments[] = {{CodeMoment::weight, "weight"},
                                                               {CodeMoment::group, "group"}};
constexpr std::pair<Subspace, const char*> subspaces[] = {
    {Subspace::topk, "topk"},
    {Subspace::sample, "sample"},
    {Subspace::random, "random"},
    {Subspace::block, "block"},
    {Subspace::layer_budget, "layer-budget"},
    {Subspace::eager, "eager"},
};

template <class Named>
auto parse(const Named& all, const std::string& flag, const std::string& name) {
    std::string known;
    for (const auto& [value, its_name] : all) {
        if (name == its_name) return value;
        known += (known.empty() ? "" : ", ") + std::string(its_name);
    }
    throw Error(flag + " " + name + ": there is " + known);
}

template <class Named, class Value>
std::string name_in(const Named& all, Value value) {
    return std::find_if(std::begin(all), std::end(all), [&](const auto& named) { return named.first == value; })
        ->second;
}

}  // namespace

Strategy parse_strategy(const std::string& name) { return parse(strategies, "--strategy", name); }
std::string name_of(Strategy strategy) { return name_in(strategies, strategy); }
Subspace parse_subspace(const std::string& name) { return parse(subspaces, "--subspace", name); }
CodeMoment parse_code_moment(const std::string& name) { return parse(code_moments, "--code-moment", name); }
std::string name_of(Subspace subspace) { return name_in(subspaces, subspace); }

void check_settings(const TuneSettings& settings) {
    const std::string of_strategy = " with --strategy " + name_of(settings.strategy) + ": ";
    const bool eager = settings.subspace == Subspace::eager;
    if (settings.subspace != Subspace::topk && !settings.has_subspace()) {
        throw Error("--subspace " + name_of(settings.subspace) + of_strategy +
                    "it has no subspace to choose; use pv or pv-ste");
    }
    if (settings.candidates > 1 && !settings.has_subspace()) {
        throw Error("--candidates " + std::to_string(settings.candidates) + of_strategy +
                    "it has no subspace to choose; use pv or pv-ste");
    }
    if (eager && settings.strategy != Strategy::pv) {
        throw Error("--subspace eager" + of_strategy + "it chooses changes from the gradient alone; use pv");
    }
    if (eager && (settings.candidates > 1 || settings.force_codes)) {
        throw Error("--subspace eager with " + std::string(settings.force_codes ? "--force-codes" : "--candidates") +
                    ": every group it chooses changes; leave that out");
    }
    if (eager && settings.code_moment == CodeMoment::group) {
        throw Error("--subspace eager with --code-moment group: it weighs every weight by its own moment; use weight");
    }
    if (settings.narrow_buffer && !settings.straight_through()) {
        throw Error("--code-buffer bf16" + of_strategy + "it has no straight-through buffer; use ste or pv-ste");
    }
    if (settings.force_codes && settings.strategy != Strategy::pv) {
        throw Error("--force-codes" + of_strategy + "only pv has it");
    }
}

Schedule parse_schedule(const std::string& name) {
    if (name == "constant") return Schedule::constant;
    if (name == "linear") return Schedule::linear;
    if (name == "cosine") return Schedule::cosine;
    throw Error("--schedule " + name + ": there is constant, linear and cosine");
}

std::string settings_json(const TuneSettings& settings) {
    nlohmann::ordered_json json;
    json["strategy"] = name_of(settings.strategy);
    json["batch"] = settings.batch;
    json["micro_batch"] = settings.sequences_together();
    json["ctx"] = settings.length;
    json["seed"] = settings.seed;
    json["shuffle"] = settings.shuffle;
    json["lr"] = settings.rate;
    json["beta1"] = settings.beta1;
    json["beta2"] = settings.beta2;
    json["train_dense"] = settings.train_dense;
    json["code_lr"] = settings.code_rate;
    json["subspace_lr"] = settings.subspace_rate;
    json["code_beta2"] = settings.code_beta2;
    json["code_moment"] = name_in(code_moments, settings.code_moment);
    json["narrow_buffer"] = settings.narrow_buffer;
    json["tau"] = settings.tau;
    json["subspace"] = name_of(settings.subspace);
    json["subspace_temperature"] = settings.subspace_temperature;
    json["rounding_temperature"] = settings.rounding_temperature;
    json["candidates"] = settings.candidates;
    json["force_codes"] = settings.force_codes;
    json["v_every"] = settings.v_every;
    json["measure_v"] = settings.measure_v;
    json["trust_ratio"] = settings.trust_ratio;
    json["beam"] = settings.beam;
    json["lamb"] = settings.lamb;
    json["schedule"] = static_cast<int>(settings.schedule);
    json["warmup"] = settings.warmup;
    json["final_rate"] = settings.final_rate;
    // The rates of a falling schedule depend on the number of steps.
    if (settings.schedule != Schedule::constant) json["steps"] = settings.steps;
    return json.dump();
}

namespace {

std::string flag_of(const std::string& key, const nlohmann::json& value) {
    const auto either = [&](const char* flag, const char* when_true, const char* when_false) {
        return flag + std::string(value == true ? when_true : when_false);
    };
    if (key == "shuffle") return either("--order ", "shuffled", "sequential");
    if (key == "narrow_buffer") return either("--code-buffer ", "bf16", "f32");
    if (key == "schedule")
        return std::string("--schedule ") + (value == 0 ? "constant" : value == 1 ? "linear" : "cosine");
    std::string flag = "--" + key;
    std::replace(flag.begin(), flag.end(), '_', '-');
    if (key == "measure_v" || key == "force_codes") return (value == true ? "" : "no ") + flag;
    if (value.is_boolean()) return either((flag + " ").c_str(), "on", "off");
    if (value.is_number_float()) return flag + " " + format("%g", value.get<double>());
    return flag + " " + (value.is_string() ? value.get<std::string>() : value.dump());
}

}  // namespace

SettingsChange settings_change(const std::string& written, const TuneSettings& now) {
    const auto before = nlohmann::ordered_json::parse(written, nullptr, false);
    if (!before.is_object()) throw std::invalid_argument("settings that are no JSON object");
    const auto after = nlohmann::ordered_json::parse(settings_json(now));
    SettingsChange change;
    const auto add = [](std::string& list, const std::string& flag) { list += (list.empty() ? "" : ", ") + flag; };
    for (const auto& [key, value] : after.items()) {
        const auto old = before.find(key);
        if (old != before.end() && *old == value) continue;
        if (key == "lr" || key == "code_lr" || key == "subspace_lr") {
            add(change.rates, flag_of(key, value));
        } else {
            add(change.others, old == before.end() ? "no --" + key : flag_of(key, *old));
        }
    }
    for (const auto& [key, value] : before.items()) {
        if (!after.contains(key)) add(change.others, flag_of(key, value));
    }
    return change;
}

std::string rate_flags(const TuneSettings& settings) {
    if (!settings.moves_codes()) return "--lr";
    return settings.strategy == Strategy::pv ? "--lr or --subspace-lr" : "--lr or --code-lr";
}

}  // namespace pvtune
