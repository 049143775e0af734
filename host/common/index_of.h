#pragma once

#include <cstddef>
#include <cstdint>

namespace pvtune {

/// A count or position of ours as the standard containers want it.
constexpr std::size_t index_of(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace pvtune
