#pragma once

#include "host/backend/backend.h"

namespace pvtune {

/// Memory of one entry at a time: tensors are cut from a pool that the next entry uses again. Without a backend it only
/// counts, so that a plan knows what each entry needs.
class Operands {
public:
    static constexpr std::int64_t noise_bytes = std::int64_t{4} << 20;

    Operands() = default;
    /// A pool of that many bytes, from the backend's arena.
    Operands(Backend& backend, std::int64_t bytes);

    /// What was cut so far is free again; bytes() is the most that was in use.
    void reset() { used_ = 0; }
    std::int64_t bytes() const { return most_; }
    std::int64_t in_use() const { return used_; }
    /// All that was cut since reset(), as u8.
    Tensor used() const { return pool_.rows(0, used_); }
    /// Like reset(), and the whole pool is zero.
    void clear();
    bool counting() const { return backend_ == nullptr; }

    using Extents = std::initializer_list<std::int64_t>;
    /// Whatever the memory holds: for results.
    Tensor fresh(DType dtype, Extents shape);
    Tensor zeros(DType dtype, Extents shape);
    /// f32
    Tensor constant(float value, Extents shape);
    /// f32 or bf16, uniform in [-1, 1): zeros and repeated values would flatter some operations, and some devices.
    Tensor random(DType dtype, Extents shape);
    /// f32, uniform in (0, 1]: for scores and squared distances.
    Tensor positive(Extents shape);
    /// u8, u16 or u32, uniform below `limit`.
    Tensor integers(DType dtype, Extents shape, std::int64_t limit);
    /// u32: `count` different numbers below `limit`, ascending and equally far apart.
    Tensor ascending(std::int64_t count, std::int64_t limit);
    /// u32: the first min(count, limit) are different numbers below `limit`, in no order.
    Tensor scattered(std::int64_t count, std::int64_t limit);

private:
    template <class Next>
    void upload(Tensor to, Next next);

    Backend* backend_ = nullptr;
    Tensor pool_;
    Tensor noise_;  ///< f32: what random() repeats
    std::int64_t used_ = 0, most_ = 0;
};

}  // namespace pvtune
