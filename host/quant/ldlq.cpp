#include "host/quant/ldlq.h"

#include "host/quant/cholesky.h"

namespace pvtune {
namespace {

constexpr std::int64_t group = 8;

/// The upper triangular R of H + damping I = R R^T, as the lower factor of H in the reverse order of rows and columns:
/// R(i, j) = L(n - 1 - i, n - 1 - j). False where there is none.
bool factorise(Eigen::MatrixXd& lower, std::span<const float> hessian, std::int64_t n, double damping) {
    lower.resize(n, n);
    for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t i = j; i < n; ++i) {
            lower(i, j) = static_cast<double>(hessian[static_cast<std::size_t>((n - 1 - i) * n + n - 1 - j)]);
        }
        lower(j, j) += damping;
    }
    return factorise_lower(lower);
}

bool factorise_damped(Eigen::MatrixXd& lower, std::span<const float> hessian, std::int64_t n) {
    double trace = 0;
    for (std::int64_t i = 0; i < n; ++i) trace += static_cast<double>(hessian[static_cast<std::size_t>(i * n + i)]);
    const double mean = trace / static_cast<double>(n);
    if (!(mean > 0) || !std::isfinite(mean)) return false;
    for (const double share : {0.01, 0.1, 1.0}) {
        if (factorise(lower, hessian, n, share * mean)) return true;
    }
    return false;
}

}  // namespace

std::vector<float> ldlq_shares(std::span<const float> hessian, std::int64_t columns) {
    const std::int64_t blocks = columns / group;
    std::vector<float> shares(static_cast<std::size_t>(columns * columns));
    Eigen::MatrixXd lower;
    if (!factorise_damped(lower, hessian, columns)) return shares;
    const auto upper = [&](std::int64_t i, std::int64_t j) { return lower(columns - 1 - i, columns - 1 - j); };
    cpu::for_chunks(blocks, 1, [&](std::int64_t, std::int64_t block, std::int64_t) {
        const std::int64_t first = block * group;
        float* to = shares.data() + first * columns;
        // U's block (j, k) is X with X R(k, k) = R(j, k), row by row.
        for (std::int64_t i = 0; i < first; ++i) {
            double x[group];
            for (std::int64_t c = 0; c < group; ++c) {
                double rest = upper(i, first + c);
                for (std::int64_t d = 0; d < c; ++d) rest -= x[d] * upper(first + d, first + c);
                x[c] = rest / upper(first + c, first + c);
                to[c * columns + i] = static_cast<float>(x[c]);
            }
        }
    });
    for (const float value : shares) {
        if (!std::isfinite(value)) return std::vector<float>(shares.size());
    }
    return shares;
}

}  // namespace pvtune
