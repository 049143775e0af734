#include "host/theory/experiments.h"

#include <stdexcept>

namespace pvtune::theory {

namespace {

// Where the start's values lie: a Gaussian's bulk with few of them, all of it with many.
constexpr double few_values_reach = 1.5;
constexpr double many_values_reach = 3.2;

Experiment run_all(std::string name, const Objective& f, const Point& start, const ExperimentSettings& settings,
                   std::initializer_list<VStep> methods) {
    Experiment experiment{std::move(name), f.dimension(), start.values.size(), f.smoothness(), {}};
    for (const VStep method : methods) {
        experiment.runs.push_back(run_pv(f, start, {method, settings.tau, settings.iterations}));
    }
    return experiment;
}

Experiment run_small(std::string name, const Objective& f, const ExperimentSettings& settings) {
    const Point start =
        scattered(settings.dimension, settings.values, -few_values_reach, few_values_reach, settings.seed);
    return run_all(std::move(name), f, start, settings,
                   {VStep::exact, VStep::linearized, VStep::subspace, VStep::naive});
}

}  // namespace

std::size_t Experiment::iterations() const {
    std::size_t count = 0;
    for (const PvRun& run : runs) count += run.iterations.size();
    return count;
}

std::size_t Experiment::violated() const {
    std::size_t count = 0;
    for (const PvRun& run : runs) count += run.violated;
    return count;
}

void require_held(const std::vector<Experiment>& experiments) {
    std::size_t iterations = 0;
    std::size_t violated = 0;
    for (const Experiment& experiment : experiments) {
        iterations += experiment.iterations();
        violated += experiment.violated();
    }
    if (violated == 0) return;
    throw std::runtime_error("the inequalities of " + std::to_string(violated) + " of " + std::to_string(iterations) +
                             " iterations did not hold");
}

Experiment small_quadratic(const ExperimentSettings& settings) {
    return run_small("quadratic", *random_quadratic(settings.dimension, settings.condition, 0, settings.seed),
                     settings);
}

Experiment small_logistic(const ExperimentSettings& settings) {
    return run_small("logistic", *random_logistic(settings.dimension, settings.condition, settings.seed), settings);
}

Experiment large_quadratic(const ExperimentSettings& settings) {
    constexpr double decay = 1;
    constexpr double distance = 0.2;  // of the start from the optimum, in the optimum's standard deviations
    const auto f = random_quadratic(settings.dimension, settings.condition, decay, settings.seed);
    Vector near = f->centre();
    const Vector noise = gaussians(near.size(), ~settings.seed);
    for (std::size_t i = 0; i < near.size(); ++i) near[i] += distance * noise[i];
    return run_all("large quadratic", *f, quantized(near, settings.values, -many_values_reach, many_values_reach),
                   settings, {VStep::linearized, VStep::subspace, VStep::subspace_exact, VStep::naive});
}

}  // namespace pvtune::theory
