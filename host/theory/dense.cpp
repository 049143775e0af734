#include "host/theory/dense.h"

#include "host/quant/random.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace pvtune::theory {

double dot(View a, View b) {
    assert(a.size() == b.size());
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

Vector solve(Matrix a, Vector b) {
    const std::size_t n = a.rows;
    assert(a.columns == n && b.size() == n);
    for (std::size_t j = 0; j < n; ++j) {
        for (std::size_t i = j; i < n; ++i) a(i, j) -= dot(a.row(i).first(j), a.row(j).first(j));
        const double pivot = std::sqrt(a(j, j));
        for (std::size_t i = j; i < n; ++i) a(i, j) /= pivot;
    }
    for (std::size_t i = 0; i < n; ++i) b[i] = (b[i] - dot(a.row(i).first(i), View(b).first(i))) / a(i, i);
    for (std::size_t i = n; i-- > 0;) {
        for (std::size_t k = i + 1; k < n; ++k) b[i] -= a(k, i) * b[k];
        b[i] /= a(i, i);
    }
    return b;
}

namespace {

/// Makes a(p, q) zero by rotating rows and columns p and q.
void rotate(Matrix& a, std::size_t p, std::size_t q) {
    const double theta = (a(q, q) - a(p, p)) / (2 * a(p, q));
    const double t = std::copysign(1 / (std::abs(theta) + std::hypot(theta, 1)), theta);
    const double cosine = 1 / std::hypot(t, 1);
    const double sine = t * cosine;
    for (std::size_t k = 0; k < a.rows; ++k) {
        const double left = a(k, p);
        const double right = a(k, q);
        a(k, p) = cosine * left - sine * right;
        a(k, q) = sine * left + cosine * right;
    }
    for (std::size_t k = 0; k < a.rows; ++k) {
        const double upper = a(p, k);
        const double lower = a(q, k);
        a(p, k) = cosine * upper - sine * lower;
        a(q, k) = sine * upper + cosine * lower;
    }
}

}  // namespace

double largest_eigenvalue(Matrix a) {
    assert(a.rows == a.columns && a.rows > 0);
    const double small = std::numeric_limits<double>::epsilon() * std::sqrt(dot(a.values, a.values));
    constexpr int most_sweeps = 60;  // it converges quadratically: ten are plenty
    for (int sweep = 0; sweep < most_sweeps; ++sweep) {
        double off = 0;
        for (std::size_t p = 0; p < a.rows; ++p) {
            for (std::size_t q = p + 1; q < a.rows; ++q) {
                off = std::max(off, std::abs(a(p, q)));
                if (a(p, q) != 0) rotate(a, p, q);
            }
        }
        if (off <= small) break;
    }
    double largest = a(0, 0);
    for (std::size_t i = 1; i < a.rows; ++i) largest = std::max(largest, a(i, i));
    return largest;
}

Vector gaussians(std::size_t count, std::uint64_t seed) {
    Random random(seed);
    Vector values(count);
    for (double& value : values) {
        const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
        value = radius * std::cos(2 * std::numbers::pi * random.uniform());
    }
    return values;
}

Matrix random_rotation(std::size_t n, std::uint64_t seed) {
    Matrix rows(n, n);
    rows.values = gaussians(n * n, seed);
    for (std::size_t i = 0; i < n; ++i) {
        double* row = rows.values.data() + i * n;
        for (int pass = 0; pass < 2; ++pass) {
            for (std::size_t k = 0; k < i; ++k) {
                const double share = dot(rows.row(i), rows.row(k));
                for (std::size_t j = 0; j < n; ++j) row[j] -= share * rows(k, j);
            }
            const double length = std::sqrt(dot(rows.row(i), rows.row(i)));
            for (std::size_t j = 0; j < n; ++j) row[j] /= length;
        }
    }
    return rows;
}

}  // namespace pvtune::theory
