#pragma once

#include "io/dtype.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>
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

/// Calls body.template operator()<T>() with T = float or bf16.
template <class Body>
decltype(auto) with_float_type(DType dtype, Body&& body) {
    if (dtype == DType::f32) return std::forward<Body>(body).template operator()<float>();
    if (dtype == DType::bf16) return std::forward<Body>(body).template operator()<bf16>();
    throw std::logic_error("an operation got a tensor that is neither f32 nor bf16");
}

/// Calls body.template operator()<T>() with T = std::uint8_t or std::uint16_t.
template <class Body>
decltype(auto) with_code_type(DType dtype, Body&& body) {
    if (dtype == DType::u8) return std::forward<Body>(body).template operator()<std::uint8_t>();
    if (dtype == DType::u16) return std::forward<Body>(body).template operator()<std::uint16_t>();
    throw std::logic_error("an operation got codes that are neither u8 nor u16");
}

/// Calls body.template operator()<group>() with the number of weights a group as a constant.
template <class Body>
decltype(auto) with_group(std::int64_t group, Body&& body) {
    switch (group) {
        case 4:
            return std::forward<Body>(body).template operator()<4>();
        case 8:
            return std::forward<Body>(body).template operator()<8>();
        case 16:
            return std::forward<Body>(body).template operator()<16>();
        default:
            throw std::logic_error("groups of weights have 4, 8 or 16 members");
    }
}

}  // namespace pvtune::cpu
