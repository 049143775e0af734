#pragma once

#include "host/theory/objective.h"

#include <cstdint>
#include <string>

namespace pvtune::theory {

/// A point with few distinct values: coordinate i is values[codes[i]]. Every value is in use.
struct Point {
    Vector values;
    std::vector<std::size_t> codes;

    Vector expand() const;
};

/// Values spread evenly from low to high, coordinates at the nearest one of x's; those that no coordinate takes go.
Point quantized(View x, std::size_t values, double low, double high);
/// The same values, each taken by one of the first coordinates; the other coordinates anywhere.
Point scattered(std::size_t dimension, std::size_t values, double low, double high, std::uint64_t seed);

/// argmin { f(y) : y constant on every block of x }: damped Newton over the values until their gradient is rounding.
Point p_step(const Objective& f, const Point& x);

/// argmin { f(x) : V(x) within V(y) } over all assignments; y itself where none is better.
std::vector<std::size_t> exact_v_step(const Objective& f, const Point& y);

/// Assignments that exact_v_step() would go through; infinite where there are too many to count.
double assignments(std::size_t dimension, std::size_t values);

/// argmin { <g, x - y> + L/2 |x - y|^2 : V(x) within V(y) }: coordinate by coordinate the value nearest to y - g / L,
/// where y stays on a tie.
std::vector<std::size_t> linearized_v_step(View gradient, double smoothness, const Point& y);

/// Coordinates that a step along -gradient moves most, ties: lower index first; ascending.
Coordinates most_moved(View gradient, std::size_t count);

enum class VStep {
    exact,           ///< over all assignments
    linearized,      ///< all coordinates, step 1/L
    subspace,        ///< the tau of coordinates that want to move most, step 1/L_S
    subspace_exact,  ///< the same coordinates, over all their assignments
    naive            ///< all coordinates, with the subspace's step 1/L_S: no theorem covers it
};
const char* name_of(VStep method);

/// One iteration: P step x -> y, V step y -> next.
struct Iteration {
    double f_x = 0;
    double f_y = 0;
    double bound = 0;  ///< f(y) + <g, next - y> + L/2 |next - y|^2 with the step's own L; f(y) for exact steps
    double f_next = 0;
    double smoothness = 0;  ///< the L of the step; 0 for exact ones
    std::size_t moved = 0;  ///< coordinates that changed their value's number
    std::size_t values = 0;
    bool held = false;  ///< f(next) <= bound <= f(y) <= f(x); for naive steps f(y) <= f(x) alone
};

struct RunSettings {
    VStep method = VStep::exact;
    double tau = 0.01;  ///< share of the coordinates in a subspace: at least one
    std::int64_t iterations = 20;
};

struct PvRun {
    VStep method = VStep::exact;
    std::vector<Iteration> iterations;
    bool fixed_point = false;  ///< the last V step moved nothing: all further iterations would be the same
    std::size_t rises = 0;     ///< V steps after which f was larger than before
    std::size_t violated = 0;  ///< iterations that did not hold
};

/// Alternates P and V steps until nothing moves. Inequalities are held up to 1e-12 of f(x_0): rounding.
PvRun run_pv(const Objective& f, Point x, const RunSettings& settings);

}  // namespace pvtune::theory
