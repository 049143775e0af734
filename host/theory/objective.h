#pragma once

#include "host/theory/dense.h"

#include <cstdint>
#include <memory>

namespace pvtune::theory {

using Coordinates = std::vector<std::size_t>;

/// A convex function with a Lipschitz gradient, in double.
class Objective {
public:
    virtual ~Objective() = default;

    virtual std::size_t dimension() const = 0;
    virtual double value(View x) const = 0;
    virtual Vector gradient(View x) const = 0;
    virtual Matrix hessian(View x) const = 0;
    /// The L of f(x) <= f(y) + <grad f(y), x - y> + L/2 |x - y|^2 for all x and y.
    virtual double smoothness() const = 0;
    /// The function of some coordinates alone, the others fixed at y's: its smoothness is the L_S of that subspace.
    virtual std::unique_ptr<Objective> restricted(View y, const Coordinates& coordinates) const = 0;
};

/// offset + 1/2 (x - centre)^T a (x - centre), a positive definite.
class Quadratic : public Objective {
public:
    /// smoothness: the largest eigenvalue of a where it is known; else it is computed.
    Quadratic(Matrix a, Vector centre, double offset = 0, double smoothness = 0);

    std::size_t dimension() const override { return centre_.size(); }
    double value(View x) const override;
    Vector gradient(View x) const override;
    Matrix hessian(View) const override { return a_; }
    double smoothness() const override { return smoothness_; }
    std::unique_ptr<Objective> restricted(View y, const Coordinates& coordinates) const override;
    const Vector& centre() const { return centre_; }

private:
    Matrix a_;
    Vector centre_;
    double offset_;
    double smoothness_;
};

/// Regularised logistic loss: 1/n sum over i of log(1 + exp(-(samples_i . x + shifts_i))) + ridge/2 |x|^2 + offset;
/// a sample is a row times its label.
class Logistic : public Objective {
public:
    Logistic(Matrix samples, Vector shifts, double ridge, double offset = 0);

    std::size_t dimension() const override { return samples_.columns; }
    double value(View x) const override;
    Vector gradient(View x) const override;
    Matrix hessian(View x) const override;
    double smoothness() const override { return smoothness_; }
    std::unique_ptr<Objective> restricted(View y, const Coordinates& coordinates) const override;

private:
    double margin(std::size_t i, View x) const { return dot(samples_.row(i), x) + shifts_[i]; }
    /// 1/n sum of weights_i samples_i samples_i^T + ridge I
    Matrix weighted(View weights) const;

    Matrix samples_;
    Vector shifts_;
    double ridge_;
    double offset_;
    double smoothness_;
};

/// Eigenvalues from `condition` down to 1 in random directions; `decay` is how fast: the i-th is condition * i^-decay,
/// at least 1, or spaced evenly on a logarithmic scale for decay 0. The centre is Gaussian.
std::unique_ptr<Quadratic> random_quadratic(std::size_t dimension, double condition, double decay, std::uint64_t seed);

/// Eight noisily labelled Gaussian samples a coordinate, whose features' variances span `condition`.
std::unique_ptr<Logistic> random_logistic(std::size_t dimension, double condition, std::uint64_t seed);

}  // namespace pvtune::theory
