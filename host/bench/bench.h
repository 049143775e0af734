#pragma once

#include "host/backend/backend.h"

#include <functional>
#include <string>
#include <vector>

namespace pvtune {

/// One operation at the shapes of a block of SmolLM2-135M: what it must move and compute at least, and a call of it.
struct BenchEntry {
    std::string name;
    double bytes = 0;  ///< read and written once each
    double flops = 0;
    std::function<void()> run;
};

struct BenchResult {
    std::string name;
    double seconds = 0;  ///< a call, the median
    double bytes = 0;
    double flops = 0;
};

/// What this machine can do, measured in the same run: the best of several tries.
struct MachineLimits {
    double copy_bytes_per_second = 0;  ///< read and write counted
    double flops_per_second = 0;       ///< a square GEMM in the precision of the run
};

/// Entries whose name contains `filter`; their tensors live in the backend's arena.
std::vector<BenchEntry> bench_entries(Backend& backend, DType precision, const std::string& filter);

MachineLimits measure_limits(Backend& backend, DType precision);

/// Calls the entry once to warm up, then for about `seconds` and at least three times.
BenchResult time_entry(Backend& backend, const BenchEntry& entry, double seconds);

}  // namespace pvtune
