#pragma once

// Eigen's own products would cut their sums by the number of threads.
#define EIGEN_DONT_PARALLELIZE
#include <eigen3/Eigen/Cholesky>
#include <eigen3/Eigen/Core>

#include "host/backend/cpu/chunks.h"

#include <cmath>

namespace pvtune {

/// The lower factor L of A = L L^T in place of A's lower triangle, by square blocks that threads share; false where
/// there is none, or where it is not finite. Same bits for any number of threads.
template <class T>
bool factorise_lower(Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>& a) {
    using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
    constexpr std::int64_t side = 128;
    const std::int64_t n = a.rows();
    for (std::int64_t first = 0; first < n; first += side) {
        const std::int64_t count = std::min(side, n - first);
        const std::int64_t next = first + count;
        Eigen::Ref<Matrix> corner = a.block(first, first, count, count);
        const Eigen::LLT<Eigen::Ref<Matrix>> cholesky(corner);
        // A NaN or an infinity anywhere reaches the diagonal behind it.
        if (cholesky.info() != Eigen::Success || !corner.diagonal().allFinite()) return false;
        cpu::for_chunks(n - next, side, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            auto panel = a.block(next + begin, first, end - begin, count);
            corner.template triangularView<Eigen::Lower>().transpose().template solveInPlace<Eigen::OnTheRight>(panel);
        });
        const std::int64_t strips = cpu::chunk_count(n - next, side);
        cpu::for_chunks(strips * (strips + 1) / 2, 1, [&](std::int64_t, std::int64_t tile, std::int64_t) {
            std::int64_t i = 0;
            while ((i + 1) * (i + 2) / 2 <= tile) ++i;
            const std::int64_t row = next + i * side;
            const std::int64_t column = next + (tile - i * (i + 1) / 2) * side;
            const std::int64_t rows = std::min(side, n - row);
            const std::int64_t columns = std::min(side, n - column);
            a.block(row, column, rows, columns).noalias() -=
                a.block(row, first, rows, count) * a.block(column, first, columns, count).transpose();
        });
    }
    return a.diagonal().minCoeff() > 0;
}

}  // namespace pvtune
