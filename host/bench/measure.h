#pragma once

#include "host/bench/registry.h"

namespace pvtune {

/// What this device can do, measured in the same run: the best of several tries.
struct MachineLimits {
    double copy_bytes_per_second = 0;  ///< read and write counted
    double flops_per_second = 0;       ///< of a large square product in the precision of the run
    double f32_flops_per_second = 0;

    double rate(DType products, DType precision) const {
        return products == precision ? flops_per_second : f32_flops_per_second;
    }
};

/// With operands that only count nothing is measured.
MachineLimits measure_limits(const BenchSetting& setting, Operands& operands);

struct CallTimes {
    double median = 0, fastest = 0;  ///< seconds
    int runs = 0;
};

/// Calls it twice to warm up, then for about `seconds`, at least three times. Before every call all of `flush` is read
/// and written, so that none finds its operands in a cache.
CallTimes time_call(Backend& backend, const BenchCall& call, Tensor flush, double seconds);

/// Bytes to flush: twice the caches.
std::int64_t flush_bytes(const Backend& backend);

}  // namespace pvtune
