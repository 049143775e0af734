#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pvtune::theory {

using Vector = std::vector<double>;
using View = std::span<const double>;

/// A dense matrix in double, row by row.
struct Matrix {
    std::size_t rows = 0;
    std::size_t columns = 0;
    Vector values;

    Matrix() = default;
    Matrix(std::size_t row_count, std::size_t column_count)
        : rows(row_count), columns(column_count), values(row_count * column_count) {}
    double& operator()(std::size_t i, std::size_t j) { return values[i * columns + j]; }
    double operator()(std::size_t i, std::size_t j) const { return values[i * columns + j]; }
    View row(std::size_t i) const { return View(values).subspan(i * columns, columns); }
};

double dot(View a, View b);

/// The x of a x = b for a symmetric positive definite matrix, by Cholesky factors.
Vector solve(Matrix a, Vector b);

/// The largest eigenvalue of a symmetric matrix, by cyclic Jacobi rotations (Golub and Van Loan, section 8.5): to
/// rounding, unlike a power iteration, which comes from below and would make a smoothness constant too small.
double largest_eigenvalue(Matrix a);

/// A random orthogonal matrix from the columns of a Gaussian one, Gram-Schmidt twice over.
Matrix random_rotation(std::size_t n, std::uint64_t seed);

/// Standard normal numbers (Box and Muller), the same for a seed.
Vector gaussians(std::size_t count, std::uint64_t seed);

}  // namespace pvtune::theory
