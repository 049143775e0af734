#pragma once

#include "host/backend/tensor.h"

#include <functional>
#include <string>
#include <vector>

namespace pvtune {

/// One named allocation of an Arena, for the memory plan.
struct Allocation {
    std::string name;
    std::int64_t bytes = 0;
};

/// Owns every long-lived buffer of a run. Nothing is freed before the arena is, and nothing is allocated inside a step.
/// A planning arena hands out no memory at all: it records names and sizes, for `--dry-run` and for the check that a
/// plan fits before any work starts.
class Arena {
public:
    using Allocate = std::function<void*(std::int64_t bytes)>;
    using Release = std::function<void(void*)>;

    /// A planning arena.
    Arena() = default;
    Arena(Allocate allocate, Release release) : allocate_(std::move(allocate)), release_(std::move(release)) {}
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    /// 64-byte aligned, and zero-filled unless it is a host_arena(). Throws Error when there is no memory.
    Tensor allocate(const std::string& name, DType dtype, std::initializer_list<std::int64_t> shape);

    bool planning() const { return !allocate_; }
    std::int64_t bytes() const { return bytes_; }
    /// Allocations in order, those of one name added up.
    std::vector<Allocation> table() const;

private:
    Allocate allocate_;
    Release release_;
    std::vector<Allocation> allocations_;
    std::vector<void*> blocks_;
    std::int64_t bytes_ = 0;
};

}  // namespace pvtune
