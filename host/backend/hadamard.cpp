#include "host/backend/hadamard.h"

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <numbers>

namespace pvtune {
namespace {

using Signs = std::vector<int>;  ///< a square matrix of 1 and -1

constexpr std::int64_t most_dense = 64;

bool is_prime(std::int64_t value) {
    if (value < 2) return false;
    for (std::int64_t divisor = 2; divisor * divisor <= value; ++divisor) {
        if (value % divisor == 0) return false;
    }
    return true;
}

/// 0, 1 for squares modulo the prime, -1 for the others.
std::vector<int> quadratic_character(std::int64_t prime) {
    std::vector<int> character(static_cast<std::size_t>(prime), -1);
    for (std::int64_t i = 1; i < prime; ++i) character[static_cast<std::size_t>(i * i % prime)] = 1;
    character[0] = 0;
    return character;
}

/// Paley's first construction for a prime q = 3 mod 4, order q + 1, with rows and columns in an order and with signs
/// that make it symmetric: the core is -chi(i + j), and -1 where that is 0.
Signs paley_one(std::int64_t prime) {
    const std::vector<int> character = quadratic_character(prime);
    const std::int64_t order = prime + 1;
    Signs signs(static_cast<std::size_t>(order * order), 1);
    for (std::int64_t i = 0; i < prime; ++i) {
        for (std::int64_t j = 0; j < prime; ++j) {
            const int value = character[static_cast<std::size_t>((i + j) % prime)];
            signs[static_cast<std::size_t>((i + 1) * order + j + 1)] = value == 0 ? -1 : -value;
        }
    }
    return signs;
}

/// Paley's second construction for a prime q = 1 mod 4, order 2 (q + 1): symmetric by itself.
Signs paley_two(std::int64_t prime) {
    const std::vector<int> character = quadratic_character(prime);
    const std::int64_t order = 2 * (prime + 1);
    Signs signs(static_cast<std::size_t>(order * order));
    for (std::int64_t i = 0; i <= prime; ++i) {
        for (std::int64_t j = 0; j <= prime; ++j) {
            int value = i == j ? 0 : 1;
            if (i > 0 && j > 0) value = character[static_cast<std::size_t>((i - j + prime) % prime)];
            const int block[4] = {value == 0 ? 1 : value, value == 0 ? -1 : value, value == 0 ? -1 : value,
                                  value == 0 ? -1 : -value};
            for (std::int64_t k = 0; k < 4; ++k) {
                signs[static_cast<std::size_t>((2 * i + k / 2) * order + 2 * j + k % 2)] = block[k];
            }
        }
    }
    return signs;
}

bool has_paley_one(std::int64_t order) { return is_prime(order - 1) && (order - 1) % 4 == 3; }
bool has_paley_two(std::int64_t order) { return is_prime(order / 2 - 1) && (order / 2 - 1) % 4 == 1; }

HadamardFactor make_factor(std::int64_t size) {
    HadamardFactor factor{hadamard_order(size), {}};
    const std::int64_t order = factor.order;
    factor.matrix.resize(static_cast<std::size_t>(order * order));
    const double scale = 1 / std::sqrt(static_cast<double>(size));
    if (order % 4 == 0) {
        const Signs signs = has_paley_one(order) ? paley_one(order - 1) : paley_two(order / 2 - 1);
        for (std::size_t i = 0; i < signs.size(); ++i) factor.matrix[i] = static_cast<float>(signs[i] * scale);
        return factor;
    }
    for (std::int64_t i = 0; i < order; ++i) {
        for (std::int64_t j = 0; j < order; ++j) {
            const double angle = 2 * std::numbers::pi * static_cast<double>(i * j % order) / static_cast<double>(order);
            factor.matrix[static_cast<std::size_t>(i * order + j)] =
                static_cast<float>((std::cos(angle) + std::sin(angle)) * scale);
        }
    }
    return factor;
}

}  // namespace

std::int64_t hadamard_order(std::int64_t size) {
    std::int64_t odd = size;
    while (odd % 2 == 0) odd /= 2;
    if (odd == 1) return 1;
    for (std::int64_t order = 4 * odd; order <= most_dense && size % order == 0; order *= 2) {
        if (has_paley_one(order) || has_paley_two(order)) return order;
    }
    return odd;
}

const HadamardFactor& hadamard_factor(std::int64_t size) {
    static std::mutex mutex;
    static std::map<std::int64_t, std::unique_ptr<const HadamardFactor>> made;
    const std::lock_guard lock(mutex);
    auto& factor = made[size];
    if (!factor) factor = std::make_unique<const HadamardFactor>(make_factor(size));
    return *factor;
}

}  // namespace pvtune
