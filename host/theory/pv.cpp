#include "host/theory/pv.h"

#include "host/quant/random.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pvtune::theory {

namespace {

constexpr double rounding = 1e-12;  // of f(x_0); sums of some thousand terms in double are good to that

Vector spread(std::size_t count, double low, double high) {
    Vector values(count, low);
    for (std::size_t k = 1; k < count; ++k) {
        values[k] = low + (high - low) * static_cast<double>(k) / static_cast<double>(count - 1);
    }
    return values;
}

/// Drops the values that no coordinate takes: V(x) is what is in use.
void drop_unused(Point& point) {
    std::vector<std::size_t> number(point.values.size(), 0);
    for (const std::size_t code : point.codes) number[code] = 1;
    Vector kept;
    for (std::size_t k = 0; k < number.size(); ++k) {
        const bool used = number[k] == 1;
        number[k] = kept.size();
        if (used) kept.push_back(point.values[k]);
    }
    for (std::size_t& code : point.codes) code = number[code];
    point.values = std::move(kept);
}

/// The nearest value; of equally near ones `from`, then the first.
std::size_t nearest(const Vector& values, double target, std::size_t from) {
    std::size_t best = from;
    for (std::size_t k = 0; k < values.size(); ++k) {
        if (std::abs(values[k] - target) < std::abs(values[best] - target)) best = k;
    }
    return best;
}

}  // namespace

Vector Point::expand() const {
    Vector x(codes.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = values[codes[i]];
    return x;
}

Point quantized(View x, std::size_t values, double low, double high) {
    Point point{spread(values, low, high), std::vector<std::size_t>(x.size())};
    for (std::size_t i = 0; i < x.size(); ++i) point.codes[i] = nearest(point.values, x[i], 0);
    drop_unused(point);
    return point;
}

Point scattered(std::size_t dimension, std::size_t values, double low, double high, std::uint64_t seed) {
    Random random(seed);
    Point point{spread(values, low, high), std::vector<std::size_t>(dimension)};
    for (std::size_t i = 0; i < dimension; ++i) {
        point.codes[i] = i < values ? i : static_cast<std::size_t>(random.below(static_cast<std::int64_t>(values)));
    }
    drop_unused(point);
    return point;
}

Point p_step(const Objective& f, const Point& x) {
    Point y = x;
    const std::size_t count = x.values.size();
    double here = f.value(y.expand());
    constexpr int most_steps = 100;
    for (int step = 0; step < most_steps; ++step) {
        const Vector full = y.expand();
        const Vector g = f.gradient(full);
        const Matrix h = f.hessian(full);
        Vector reduced(count);
        Matrix curvature(count, count);
        for (std::size_t i = 0; i < full.size(); ++i) {
            reduced[x.codes[i]] += g[i];
            for (std::size_t j = 0; j < full.size(); ++j) curvature(x.codes[i], x.codes[j]) += h(i, j);
        }
        const Vector direction = solve(curvature, reduced);
        const double decrement = dot(reduced, direction);
        double length = 1;
        Point next = y;
        double there = here;
        constexpr double shortest = 1e-10;
        for (; length > shortest; length /= 2) {
            for (std::size_t k = 0; k < count; ++k) next.values[k] = y.values[k] - length * direction[k];
            there = f.value(next.expand());
            if (there <= here - 1e-4 * length * decrement) break;  // Armijo
        }
        if (length <= shortest || there >= here) break;  // only rounding is left
        y = next;
        here = there;
    }
    return y;
}

double assignments(std::size_t dimension, std::size_t values) {
    return std::pow(static_cast<double>(values), static_cast<double>(dimension));
}

std::vector<std::size_t> exact_v_step(const Objective& f, const Point& y) {
    const std::size_t count = y.values.size();
    Vector x = y.expand();
    double lowest = f.value(x);
    std::vector<std::size_t> best = y.codes;
    std::vector<std::size_t> codes(y.codes.size(), 0);
    std::fill(x.begin(), x.end(), y.values[0]);
    for (;;) {
        if (const double here = f.value(x); here < lowest) {
            lowest = here;
            best = codes;
        }
        std::size_t i = 0;  // the next number in base `count`
        while (i < codes.size() && codes[i] + 1 == count) {
            codes[i] = 0;
            x[i++] = y.values[0];
        }
        if (i == codes.size()) return best;
        x[i] = y.values[++codes[i]];
    }
}

std::vector<std::size_t> linearized_v_step(View gradient, double smoothness, const Point& y) {
    std::vector<std::size_t> codes(y.codes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) {
        codes[i] = nearest(y.values, y.values[y.codes[i]] - gradient[i] / smoothness, y.codes[i]);
    }
    return codes;
}

Coordinates most_moved(View gradient, std::size_t count) {
    Coordinates order(gradient.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return std::abs(gradient[a]) > std::abs(gradient[b]); });
    order.resize(std::min(count, order.size()));
    std::sort(order.begin(), order.end());
    return order;
}

const char* name_of(VStep method) {
    switch (method) {
        case VStep::exact:
            return "exact";
        case VStep::linearized:
            return "full space, 1/L";
        case VStep::subspace:
            return "subspace, 1/L_S";
        case VStep::subspace_exact:
            return "subspace, exact";
        case VStep::naive:
            return "full space, 1/L_S";
    }
    return "";
}

namespace {

/// The V step on a restricted problem; codes of the other coordinates stay.
std::vector<std::size_t> subspace_step(const Objective& part, const Coordinates& coordinates, View gradient,
                                       const Point& y, bool exact) {
    Point inside{y.values, {}};
    Vector slope;
    for (const std::size_t i : coordinates) {
        inside.codes.push_back(y.codes[i]);
        slope.push_back(gradient[i]);
    }
    const auto chosen = exact ? exact_v_step(part, inside) : linearized_v_step(slope, part.smoothness(), inside);
    std::vector<std::size_t> codes = y.codes;
    for (std::size_t k = 0; k < coordinates.size(); ++k) codes[coordinates[k]] = chosen[k];
    return codes;
}

struct Step {
    std::vector<std::size_t> codes;
    double smoothness = 0;  ///< 0: an exact step
};

Step v_step(const Objective& f, const Point& y, View full, View gradient, const RunSettings& settings) {
    const auto share = static_cast<std::size_t>(std::ceil(settings.tau * static_cast<double>(full.size())));
    const Coordinates chosen = most_moved(gradient, std::max<std::size_t>(1, share));
    switch (settings.method) {
        case VStep::exact:
            return {exact_v_step(f, y), 0};
        case VStep::linearized:
            return {linearized_v_step(gradient, f.smoothness(), y), f.smoothness()};
        case VStep::subspace_exact:
            return {subspace_step(*f.restricted(full, chosen), chosen, gradient, y, true), 0};
        case VStep::subspace: {
            const auto part = f.restricted(full, chosen);
            return {subspace_step(*part, chosen, gradient, y, false), part->smoothness()};
        }
        case VStep::naive: {
            const double smoothness = f.restricted(full, chosen)->smoothness();
            return {linearized_v_step(gradient, smoothness, y), smoothness};
        }
    }
    return {};
}

}  // namespace

PvRun run_pv(const Objective& f, Point x, const RunSettings& settings) {
    PvRun run;
    run.method = settings.method;
    double f_x = f.value(x.expand());
    const double slack = rounding * std::abs(f_x);
    for (std::int64_t k = 0; k < settings.iterations && !run.fixed_point; ++k) {
        Iteration it;
        it.f_x = f_x;
        Point y = p_step(f, x);
        const Vector full = y.expand();
        const Vector gradient = f.gradient(full);
        it.f_y = f.value(full);
        Step step = v_step(f, y, full, gradient, settings);
        it.smoothness = step.smoothness;
        x = {y.values, std::move(step.codes)};
        const Vector next = x.expand();
        it.f_next = f.value(next);
        it.bound = it.f_y;
        for (std::size_t i = 0; i < next.size(); ++i) {
            it.moved += x.codes[i] != y.codes[i];
            const double change = next[i] - full[i];
            if (step.smoothness > 0) it.bound += change * (gradient[i] + step.smoothness / 2 * change);
        }
        it.values = y.values.size();
        it.held = it.f_y <= it.f_x + slack;
        if (settings.method != VStep::naive) {
            it.held = it.held && it.f_next <= it.bound + slack && it.bound <= it.f_y + slack;
        }
        run.rises += it.f_next > it.f_y + slack;
        run.violated += !it.held;
        run.fixed_point = it.moved == 0;
        run.iterations.push_back(it);
        drop_unused(x);
        f_x = it.f_next;
    }
    return run;
}

}  // namespace pvtune::theory
