#include "host/tune/settings.h"

#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

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

Strategy parse_strategy(const std::string& name) {
    for (const Strategy strategy : {Strategy::continuous, Strategy::pv, Strategy::pv_ste}) {
        if (name == name_of(strategy)) return strategy;
    }
    throw Error("--strategy " + name + ": there is continuous, pv and pv-ste");
}

std::string name_of(Strategy strategy) {
    switch (strategy) {
        case Strategy::continuous:
            return "continuous";
        case Strategy::pv:
            return "pv";
        case Strategy::pv_ste:
            return "pv-ste";
    }
    return "?";
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
    json["tau"] = settings.tau;
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

}  // namespace pvtune
