#pragma once

#include "host/backend/dispatch.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace pvtune::cpu {

/// Number of chunks of `chunk` items (the last may be shorter) that cover `count` items.
constexpr std::int64_t chunk_count(std::int64_t count, std::int64_t chunk) { return (count + chunk - 1) / chunk; }

/// Calls body(index, begin, end) for every chunk of [0, count), in parallel. The cut depends on `chunk` alone, so that
/// sums kept a chunk and added in order are the same for any number of threads.
template <class Body>
void for_chunks(std::int64_t count, std::int64_t chunk, const Body& body) {
    const std::int64_t chunks = chunk_count(count, chunk);
#pragma omp parallel for schedule(static) if (chunks > 1)
    for (std::int64_t index = 0; index < chunks; ++index) {
        body(index, index * chunk, std::min(count, (index + 1) * chunk));
    }
}

inline double ordered_sum(const std::vector<double>& partials) {
    double sum = 0;
    for (const double partial : partials) sum += partial;
    return sum;
}

/// Sum of squares of a few values, in f64.
inline double square_sum(const float* values, std::int64_t count) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    return sum;
}

}  // namespace pvtune::cpu
