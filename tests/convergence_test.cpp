// The theory on problems small enough to check it: optimal P and V steps by brute force, descent at every iteration.

#include "host/theory/experiments.h"
#include "tests/tensors.h"

#include <gtest/gtest.h>
#include <cmath>

namespace pvtune::theory {
namespace {

struct Case {
    std::string name;
    std::unique_ptr<Objective> f;
};

std::vector<Case> cases(std::size_t dimension, std::uint64_t seed) {
    std::vector<Case> made;
    made.push_back({"quadratic", random_quadratic(dimension, 50, 0, seed)});
    made.push_back({"logistic", random_logistic(dimension, 50, seed)});
    return made;
}

Vector plus(Vector x, const Vector& direction, double length) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += length * direction[i];
    return x;
}

TEST(Objective, GradientAndHessianAreTheDerivatives) {
    for (const Case& each : cases(5, 3)) {
        const Vector x = gaussians(5, 9);
        const Vector gradient = each.f->gradient(x);
        const Vector numeric = testing::numeric_gradient(x, [&](const Vector& at) { return each.f->value(at); });
        EXPECT_LT(testing::relative_error(gradient, numeric), 1e-7) << each.name;
        const Matrix hessian = each.f->hessian(x);
        for (std::size_t i = 0; i < 5; ++i) {
            const Vector row(hessian.row(i).begin(), hessian.row(i).end());
            const Vector of_gradient =
                testing::numeric_gradient(x, [&](const Vector& at) { return each.f->gradient(at)[i]; });
            EXPECT_LT(testing::relative_error(row, of_gradient), 1e-7) << each.name << " row " << i;
        }
    }
}

TEST(Objective, RestrictedIsTheFunctionOfThoseCoordinates) {
    const Coordinates chosen{1, 4, 5};
    for (const Case& each : cases(7, 4)) {
        const Vector y = gaussians(7, 1);
        const auto part = each.f->restricted(y, chosen);
        const Vector inside = gaussians(3, 2);
        Vector x = y;
        for (std::size_t k = 0; k < 3; ++k) x[chosen[k]] = inside[k];
        EXPECT_NEAR(part->value(inside), each.f->value(x), 1e-12 * each.f->value(x)) << each.name;
        for (std::size_t k = 0; k < 3; ++k) {
            EXPECT_NEAR(part->gradient(inside)[k], each.f->gradient(x)[chosen[k]], 1e-10) << each.name;
        }
        EXPECT_LE(part->smoothness(), each.f->smoothness()) << each.name;
    }
}

TEST(Objective, SmoothnessBoundsEveryCurvatureAndIsReached) {
    for (const Case& each : cases(6, 5)) {
        for (std::uint64_t k = 0; k < 200; ++k) {
            const Vector y = gaussians(6, 2 * k);
            const Vector d = gaussians(6, 2 * k + 1);
            const double bound = each.f->value(y) + dot(each.f->gradient(y), d) + each.f->smoothness() / 2 * dot(d, d);
            EXPECT_LE(each.f->value(plus(y, d, 1)), bound) << each.name;
        }
    }
    // Eigenvalues known by hand: 1 and 3; 1, 2 and 4.
    Matrix two(2, 2);
    two.values = {2, 1, 1, 2};
    EXPECT_NEAR(largest_eigenvalue(two), 3, 1e-14);
    const Matrix rotation = random_rotation(3, 8);
    Matrix three(3, 3);
    for (std::size_t k = 0; k < 3; ++k) {
        for (std::size_t i = 0; i < 3; ++i) {
            for (std::size_t j = 0; j < 3; ++j) {
                three(i, j) += std::exp2(static_cast<double>(k)) * rotation(k, i) * rotation(k, j);
            }
        }
    }
    EXPECT_NEAR(largest_eigenvalue(three), 4, 1e-13);
}

TEST(PStep, IsStationaryOnItsBlocksAndBeatsEveryNeighbour) {
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        for (const Case& each : cases(8, seed)) {
            const Point x = scattered(8, 3, -1, 1, seed);
            const Point y = p_step(*each.f, x);
            EXPECT_EQ(y.codes, x.codes);
            const Vector g = each.f->gradient(y.expand());
            Vector blocks(y.values.size());
            for (std::size_t i = 0; i < g.size(); ++i) blocks[y.codes[i]] += g[i];
            for (const double slope : blocks) EXPECT_NEAR(slope, 0, 1e-6 * each.f->smoothness()) << each.name;
            const double lowest = each.f->value(y.expand());
            for (std::size_t k = 0; k < y.values.size(); ++k) {
                for (const double step : {-1e-3, 1e-3}) {
                    Point moved = y;
                    moved.values[k] += step;
                    EXPECT_GT(each.f->value(moved.expand()), lowest) << each.name;
                }
            }
        }
    }
}

/// The lowest f over all assignments of three values to five coordinates: five loops.
double brute_force(const Objective& f, const Vector& v) {
    double lowest = INFINITY;
    for (const double a : v) {
        for (const double b : v) {
            for (const double c : v) {
                for (const double d : v) {
                    for (const double e : v) lowest = std::min(lowest, f.value(Vector{a, b, c, d, e}));
                }
            }
        }
    }
    return lowest;
}

TEST(VStep, ExactIsTheBestOfAllAssignments) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        for (const Case& each : cases(5, seed)) {
            const Point y = p_step(*each.f, scattered(5, 3, -1.2, 1.2, seed));
            const Point best{y.values, exact_v_step(*each.f, y)};
            EXPECT_EQ(each.f->value(best.expand()), brute_force(*each.f, y.values)) << each.name << seed;
        }
    }
}

TEST(VStep, LinearizedMinimisesItsModelOverAllAssignments) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        for (const Case& each : cases(5, seed)) {
            const Point y = scattered(5, 3, -1.2, 1.2, seed);
            const Vector full = y.expand();
            const Vector g = each.f->gradient(full);
            const double smoothness = each.f->smoothness();
            // <g, x - y> + L/2 |x - y|^2 is a quadratic with its centre at y - g / L.
            Matrix a(5, 5);
            for (std::size_t i = 0; i < 5; ++i) a(i, i) = smoothness;
            const Quadratic model(a, plus(full, g, -1 / smoothness));
            const Point next{y.values, linearized_v_step(g, smoothness, y)};
            const double lowest = brute_force(model, y.values);
            EXPECT_NEAR(model.value(next.expand()), lowest, 1e-12 * std::abs(lowest)) << each.name << seed;
        }
    }
}

TEST(VStep, TiesStayWhereTheyAre) {
    const Point y{{0, 1, 2}, {1, 1}};
    EXPECT_EQ(linearized_v_step(Vector{0.5, -0.5}, 1, y), (std::vector<std::size_t>{1, 1}));
    EXPECT_EQ(linearized_v_step(Vector{0.51, -1.6}, 1, y), (std::vector<std::size_t>{0, 2}));
    EXPECT_EQ(most_moved(Vector{1, -3, 3, 2}, 2), (Coordinates{1, 2}));
    EXPECT_EQ(most_moved(Vector{2, -2, 2}, 2), (Coordinates{0, 1}));
}

/// Looks at the numbers of a run itself, not at what the run says of them.
void expect_descent(const PvRun& run, const std::string& what) {
    const double slack = 1e-12 * std::abs(run.iterations.front().f_x);
    double before = run.iterations.front().f_x;
    for (const Iteration& it : run.iterations) {
        EXPECT_EQ(it.f_x, before) << what;
        EXPECT_LE(it.f_y, it.f_x + slack) << what;
        EXPECT_LE(it.bound, it.f_y + slack) << what;
        EXPECT_LE(it.f_next, it.bound + slack) << what;
        EXPECT_TRUE(it.held) << what;
        before = it.f_next;
    }
    EXPECT_EQ(run.violated, 0U) << what;
    EXPECT_EQ(run.rises, 0U) << what;
}

TEST(Run, NeverRisesOverManySeeds) {
    std::size_t moved = 0;
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
        for (const Case& each : cases(6, seed)) {
            const Point start = scattered(6, 3, -1.5, 1.5, seed);
            for (const VStep method : {VStep::exact, VStep::linearized, VStep::subspace, VStep::subspace_exact}) {
                const PvRun run = run_pv(*each.f, start, {method, 0.4, 50});
                expect_descent(run, each.name + ", " + name_of(method) + ", seed " + std::to_string(seed));
                EXPECT_TRUE(run.fixed_point);
                moved += run.iterations.front().moved;
            }
        }
    }
    EXPECT_GT(moved, 100U);  // the V steps did something
}

TEST(Run, OneExactStepEndsNoHigherThanALinearizedOne) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        for (const Case& each : cases(6, seed)) {
            const Point start = scattered(6, 3, -1.5, 1.5, seed);
            const PvRun exact = run_pv(*each.f, start, {VStep::exact, 0.2, 50});
            const PvRun once = run_pv(*each.f, start, {VStep::linearized, 0.2, 1});
            EXPECT_LE(exact.iterations.front().f_next, once.iterations.front().f_next) << each.name;
        }
    }
}

/// Says that it is smoother than it is.
class Liar : public Quadratic {
public:
    using Quadratic::Quadratic;
    double smoothness() const override { return Quadratic::smoothness() / 100; }
};

TEST(Run, AViolatedInequalityIsSeen) {
    const auto honest = random_quadratic(6, 100, 0, 1);
    const Liar liar(honest->hessian({}), honest->centre());
    Experiment experiment{"liar", 6, 3, 1, {}};
    experiment.runs.push_back(run_pv(liar, scattered(6, 3, -1.5, 1.5, 1), {VStep::linearized, 0.1, 5}));
    EXPECT_GT(experiment.violated(), 0U);
    EXPECT_THROW(require_held({experiment}), std::runtime_error);
    experiment.runs.clear();
    EXPECT_NO_THROW(require_held({experiment}));
}

TEST(LargeQuadratic, SmallStepsStallAndSubspacesMove) {
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
        const Experiment experiment = large_quadratic({400, 16, 1000, 0.01, 40, seed});
        const PvRun& full = experiment.runs[0];
        const PvRun& subspace = experiment.runs[1];
        const PvRun& exact = experiment.runs[2];
        const PvRun& naive = experiment.runs[3];
        ASSERT_EQ(full.method, VStep::linearized);
        ASSERT_EQ(naive.method, VStep::naive);
        EXPECT_EQ(full.iterations.front().moved, 0U) << seed;
        EXPECT_TRUE(full.fixed_point);
        EXPECT_GT(subspace.iterations.front().moved, 0U) << seed;
        EXPECT_LT(subspace.iterations.front().smoothness, experiment.smoothness / 4) << seed;
        EXPECT_LT(subspace.iterations.back().f_next, 0.9 * full.iterations.back().f_next) << seed;
        EXPECT_LT(exact.iterations.back().f_next, full.iterations.back().f_next) << seed;
        EXPECT_GT(naive.rises, 0U) << seed;
        expect_descent(full, "full space");
        expect_descent(subspace, "subspace");
        expect_descent(exact, "subspace, exact");
    }
}

TEST(LargeQuadratic, Repeats) {
    const Experiment a = large_quadratic({64, 8, 100, 0.03, 5, 7});
    const Experiment b = large_quadratic({64, 8, 100, 0.03, 5, 7});
    for (std::size_t i = 0; i < a.runs.size(); ++i) {
        EXPECT_EQ(a.runs[i].iterations.back().f_next, b.runs[i].iterations.back().f_next);
    }
}

}  // namespace
}  // namespace pvtune::theory
