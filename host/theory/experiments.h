#pragma once

#include "host/theory/pv.h"

#include <vector>

namespace pvtune::theory {

/// Runs of several V steps from one start.
struct Experiment {
    std::string name;
    std::size_t dimension = 0;
    std::size_t values = 0;  ///< at the start
    double smoothness = 0;   ///< L of the whole space
    std::vector<PvRun> runs;

    std::size_t iterations() const;
    std::size_t violated() const;  ///< iterations whose inequalities did not hold
};

/// Throws std::runtime_error where an inequality did not hold: a theorem did, so it is this program that is wrong.
void require_held(const std::vector<Experiment>& experiments);

struct ExperimentSettings {
    std::size_t dimension = 8;
    std::size_t values = 4;
    double condition = 100;
    double tau = 0.01;
    std::int64_t iterations = 60;
    std::uint64_t seed = 0;
};

/// Small enough for exhaustive V steps, which all others are compared with. They start from assignments at random.
Experiment small_quadratic(const ExperimentSettings& settings);
Experiment small_logistic(const ExperimentSettings& settings);

/// Too large for exhaustive V steps. Its eigenvalues fall like those of a trained network's Hessian, i-th L / i down to
/// L / condition; it starts like a quantised model does: values near the best ones, rounded to a grid.
Experiment large_quadratic(const ExperimentSettings& settings);

}  // namespace pvtune::theory
