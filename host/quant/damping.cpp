#include "host/quant/damping.h"

#include "host/common/index_of.h"
#include "host/quant/cholesky.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pvtune {
namespace {

/// Factorises in T; empty where that fails. Turned around, memory holds R^T row by row: element j * n + i of the
/// reversed H is H[n-1-j, n-1-i], whose lower factor L (column-major) reversed again is R[i, j].
template <class T>
std::vector<float> factor(std::span<const float> hessian, std::int64_t n, std::span<const std::uint32_t> order,
                          double damping) {
    using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
    Matrix reversed(n, n);
    for (std::int64_t j = 0; j < n; ++j) {
        const float* row = hessian.data() + index_of(order[index_of(n - 1 - j)]) * index_of(n);
        for (std::int64_t i = 0; i < n; ++i) reversed(i, j) = static_cast<T>(row[order[index_of(n - 1 - i)]]);
        reversed(j, j) += static_cast<T>(damping);
    }
    if (!factorise_lower(reversed) || !(static_cast<float>(reversed.diagonal().minCoeff()) > 0)) return {};
    std::vector<float> transposed(index_of(n * n));
    for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t i = 0; i <= j; ++i) {
            transposed[index_of(j * n + i)] = static_cast<float>(reversed(n - 1 - i, n - 1 - j));
        }
    }
    return transposed;
}

}  // namespace

std::optional<DampedFactor> damped_factor(std::span<const float> hessian, std::int64_t n,
                                          std::span<const std::uint32_t> order) {
    double trace = 0;
    for (std::int64_t i = 0; i < n; ++i) trace += static_cast<double>(hessian[index_of(i * n + i)]);
    const double mean = trace / static_cast<double>(n);
    if (!(mean > 0) || !std::isfinite(mean)) return std::nullopt;
    constexpr double first_share = 0.01;
    DampedFactor found{factor<float>(hessian, n, order, first_share * mean), first_share * mean};
    if (!found.transposed.empty()) return found;
    for (const double share : {first_share, 10 * first_share, 100 * first_share, 1000 * first_share}) {
        found = {factor<double>(hessian, n, order, share * mean), share * mean};
        if (!found.transposed.empty()) return found;
    }
    return std::nullopt;
}

std::vector<std::uint32_t> falling_diagonal(std::span<const float> hessian, std::int64_t n) {
    std::vector<std::uint32_t> order(index_of(n));
    std::iota(order.begin(), order.end(), 0U);
    const auto diagonal = [&](std::uint32_t i) {
        const float value = hessian[std::size_t{i} * index_of(n) + i];
        return value > 0 ? value : 0;  // a NaN would be no order
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return diagonal(a) > diagonal(b); });
    return order;
}

}  // namespace pvtune
