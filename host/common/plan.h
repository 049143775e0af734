#pragma once

#include "host/backend/backend.h"

#include <cstdint>
#include <string>
#include <vector>

namespace pvtune {

/// What a command will take, found before it starts.
struct Plan {
    std::vector<Allocation> memory;       ///< of the device
    std::vector<Allocation> host_memory;  ///< that a device's copies go to and come from
    double flops = 0;                     ///< floating-point operations of the matrix products
    std::int64_t bytes_read = 0;          ///< from files
    std::int64_t bytes_written = 0;       ///< to files

    std::int64_t memory_bytes() const;
    std::int64_t host_memory_bytes() const;
};

/// The allocations that a planning backend recorded.
Plan plan_of(Backend& planning);

/// A weight of the largest tensor as it is read or written: f32, and the file's type beside it.
inline constexpr std::int64_t bytes_while_reading = 8;

/// Of the planned allocations those that a model's file fills, in the types that they have in memory.
std::int64_t weight_bytes(const Plan& plan);

/// Throws Error when the plan needs more memory than the backend may use; remedy: what the user can do about it.
void check_fits(const Backend& backend, const Plan& plan, const std::string& remedy = "use a smaller --batch or --ctx");

/// The plan for `--dry-run` on standard output: as a table, or with json as an object on one line.
void print_plan(const Backend& backend, const Plan& plan, bool json);

}  // namespace pvtune
