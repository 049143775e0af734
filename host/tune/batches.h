#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pvtune {

/// The training sequences in order: non-overlapping windows of `length` tokens, every epoch in a new order that depends
/// on the seed and the epoch alone. A position is all that a resumed run needs.
class Batches {
public:
    Batches(std::span<const std::uint32_t> tokens, std::int64_t length, std::uint64_t seed, bool shuffle);

    std::int64_t windows() const { return windows_; }
    /// Tokens of sequence number `position` (counted over all epochs).
    std::span<const std::uint32_t> sequence(std::int64_t position);

private:
    void order_epoch(std::int64_t epoch);

    std::span<const std::uint32_t> tokens_;
    std::int64_t length_;
    std::uint64_t seed_;
    bool shuffle_;
    std::int64_t windows_;
    std::int64_t epoch_ = -1;
    std::vector<std::int64_t> order_;
};

}  // namespace pvtune
