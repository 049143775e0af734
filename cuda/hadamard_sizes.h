#pragma once

// Which rows the Hadamard transform covers: its launcher refuses others, and the backend tells of the limit beforehand.

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace pvtune::cuda {

inline constexpr int hadamard_threads = 1024;
/// The most elements that a thread holds.
inline constexpr int hadamard_items = 32;

/// Where element i of a row lies in shared memory: a word of padding every 32.
constexpr int padded(int i) { return i + i / 32; }

/// The longest row that a block with so much shared memory transforms.
constexpr std::int64_t longest_hadamard_row(std::size_t shared_bytes) {
    const auto words = static_cast<std::int64_t>(shared_bytes / sizeof(float));
    const std::int64_t elements = words / 33 * 32 + std::min<std::int64_t>(words % 33, 31);
    return std::min<std::int64_t>(elements, hadamard_threads * hadamard_items);
}

}  // namespace pvtune::cuda
