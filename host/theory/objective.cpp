#include "host/theory/objective.h"

#include <algorithm>
#include <cmath>

namespace pvtune::theory {

namespace {

/// A computed eigenvalue is off by some roundings; a constant that bounds must not come out too small.
constexpr double rounding = 1e-12;

double log_one_plus_exp(double t) { return std::max(t, 0.0) + std::log1p(std::exp(-std::abs(t))); }
/// 1 / (1 + exp(t)), without overflow.
double sigmoid_of_minus(double t) { return t > 0 ? std::exp(-t) / (1 + std::exp(-t)) : 1 / (1 + std::exp(t)); }

Vector at(View x, const Coordinates& coordinates) {
    Vector chosen;
    for (const std::size_t i : coordinates) chosen.push_back(x[i]);
    return chosen;
}

}  // namespace

Quadratic::Quadratic(Matrix a, Vector centre, double offset, double smoothness)
    : a_(std::move(a)), centre_(std::move(centre)), offset_(offset) {
    smoothness_ = (smoothness > 0 ? smoothness : largest_eigenvalue(a_)) * (1 + rounding);
}

double Quadratic::value(View x) const {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        double row = 0;
        for (std::size_t j = 0; j < x.size(); ++j) row += a_(i, j) * (x[j] - centre_[j]);
        sum += row * (x[i] - centre_[i]);
    }
    return offset_ + sum / 2;
}

Vector Quadratic::gradient(View x) const {
    Vector difference(x.begin(), x.end());
    for (std::size_t i = 0; i < x.size(); ++i) difference[i] -= centre_[i];
    Vector gradient(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) gradient[i] = dot(a_.row(i), difference);
    return gradient;
}

std::unique_ptr<Objective> Quadratic::restricted(View y, const Coordinates& coordinates) const {
    const std::size_t n = coordinates.size();
    Matrix part(n, n);
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) part(i, j) = a_(coordinates[i], coordinates[j]);
    }
    // f(y + d) = f(y) + <g, d> + 1/2 d^T a d on the subspace; complete the square.
    const Vector g = at(gradient(y), coordinates);
    const Vector step = solve(part, g);
    Vector centre = at(y, coordinates);
    for (std::size_t i = 0; i < n; ++i) centre[i] -= step[i];
    return std::make_unique<Quadratic>(part, centre, value(y) - dot(g, step) / 2);
}

Logistic::Logistic(Matrix samples, Vector shifts, double ridge, double offset)
    : samples_(std::move(samples)), shifts_(std::move(shifts)), ridge_(ridge), offset_(offset) {
    // The second derivative of log(1 + exp(-t)) is at most 1/4.
    smoothness_ = largest_eigenvalue(weighted(Vector(samples_.rows, 0.25))) * (1 + rounding);
}

double Logistic::value(View x) const {
    double sum = 0;
    for (std::size_t i = 0; i < samples_.rows; ++i) sum += log_one_plus_exp(-margin(i, x));
    return sum / static_cast<double>(samples_.rows) + ridge_ / 2 * dot(x, x) + offset_;
}

Vector Logistic::gradient(View x) const {
    Vector gradient(x.size());
    for (std::size_t i = 0; i < samples_.rows; ++i) {
        const double weight = -sigmoid_of_minus(margin(i, x)) / static_cast<double>(samples_.rows);
        for (std::size_t j = 0; j < x.size(); ++j) gradient[j] += weight * samples_(i, j);
    }
    for (std::size_t j = 0; j < x.size(); ++j) gradient[j] += ridge_ * x[j];
    return gradient;
}

Matrix Logistic::hessian(View x) const {
    Vector weights(samples_.rows);
    for (std::size_t i = 0; i < samples_.rows; ++i) {
        const double p = sigmoid_of_minus(margin(i, x));
        weights[i] = p * (1 - p);
    }
    return weighted(weights);
}

Matrix Logistic::weighted(View weights) const {
    const std::size_t n = samples_.columns;
    Matrix sum(n, n);
    for (std::size_t i = 0; i < samples_.rows; ++i) {
        const double weight = weights[i] / static_cast<double>(samples_.rows);
        for (std::size_t j = 0; j < n; ++j) {
            for (std::size_t k = 0; k < n; ++k) sum(j, k) += weight * samples_(i, j) * samples_(i, k);
        }
    }
    for (std::size_t j = 0; j < n; ++j) sum(j, j) += ridge_;
    return sum;
}

std::unique_ptr<Objective> Logistic::restricted(View y, const Coordinates& coordinates) const {
    Matrix part(samples_.rows, coordinates.size());
    Vector shifts(samples_.rows);
    const Vector inside = at(y, coordinates);
    for (std::size_t i = 0; i < samples_.rows; ++i) {
        for (std::size_t j = 0; j < coordinates.size(); ++j) part(i, j) = samples_(i, coordinates[j]);
        shifts[i] = margin(i, y) - dot(part.row(i), inside);
    }
    return std::make_unique<Logistic>(part, shifts, ridge_, offset_ + ridge_ / 2 * (dot(y, y) - dot(inside, inside)));
}

std::unique_ptr<Quadratic> random_quadratic(std::size_t dimension, double condition, double decay, std::uint64_t seed) {
    const Matrix directions = random_rotation(dimension, 2 * seed);
    Matrix a(dimension, dimension);
    for (std::size_t k = 0; k < dimension; ++k) {
        const double rank = static_cast<double>(k);
        const double last = std::max(1.0, static_cast<double>(dimension) - 1);
        const double eigenvalue =
            decay > 0 ? std::max(1.0, condition * std::pow(rank + 1, -decay)) : std::pow(condition, 1 - rank / last);
        for (std::size_t i = 0; i < dimension; ++i) {
            const double share = eigenvalue * directions(k, i);
            for (std::size_t j = 0; j < dimension; ++j) a(i, j) += share * directions(k, j);
        }
    }
    return std::make_unique<Quadratic>(std::move(a), gaussians(dimension, 2 * seed + 1), 0, condition);
}

std::unique_ptr<Logistic> random_logistic(std::size_t dimension, double condition, std::uint64_t seed) {
    constexpr std::size_t samples_a_coordinate = 8;
    constexpr double noise = 0.5;
    constexpr double ridge = 1e-2;
    Matrix samples(samples_a_coordinate * dimension, dimension);
    samples.values = gaussians(samples.values.size(), 2 * seed);
    const Vector extra = gaussians(dimension + samples.rows, 2 * seed + 1);  // the true weights, then the noise
    const double last = std::max(1.0, static_cast<double>(dimension) - 1);
    for (std::size_t i = 0; i < samples.rows; ++i) {
        for (std::size_t j = 0; j < dimension; ++j) {
            samples(i, j) *= std::pow(condition, -0.5 * static_cast<double>(j) / last);
        }
        const double score = dot(samples.row(i), View(extra).first(dimension)) + noise * extra[dimension + i];
        if (score < 0) {
            for (std::size_t j = 0; j < dimension; ++j) samples(i, j) = -samples(i, j);
        }
    }
    return std::make_unique<Logistic>(std::move(samples), Vector(samples_a_coordinate * dimension), ridge);
}

}  // namespace pvtune::theory
