#pragma once

#include "host/bench/measure.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>

namespace pvtune {

/// One entry's line.
struct BenchResult {
    std::string op, version, reason;
    BenchShape shape;
    double bytes = 0, flops = 0;
    DType products = DType::f32;
    CallTimes times;
    std::string skipped;  ///< why it did not run; then there are no times

    std::string name() const { return version.empty() ? op : op + "@" + version; }
};

/// The least time that the limits allow, as a share of the time it took, and which limit that is.
struct Share {
    double value = 0;
    const char* limit = "";  ///< "copy", "GEMM" (in the precision of the run) or "f32 GEMM"
};
Share share_of(const BenchResult& result, const MachineLimits& limits, DType precision);

/// A whole run, as `--json` and `--out` give it.
struct BenchRun {
    std::string device, precision;
    int threads = 0;
    std::int64_t flushed_bytes = 0;
    MachineLimits limits;
    std::vector<BenchResult> results;
};
nlohmann::ordered_json to_json(const BenchRun& run);

/// Times of a run that was kept, by entry and sizes.
struct EarlierRun {
    std::string device, precision;
    std::map<std::string, double> seconds;

    /// Time now as a multiple of the time then; nothing where the entry or its sizes are new.
    std::optional<double> ratio(const BenchResult& result) const;
};

/// Reads what to_json() gave. Throws Error for a file that is missing, damaged or something else.
EarlierRun read_earlier_run(const std::string& path);

/// Beyond this ratio an entry counts as slower.
inline constexpr double slower_ratio = 1.05;

/// Versions that beat the one that Ops calls by more than the same: "a@b takes 0.80 of the time of a".
std::vector<std::string> faster_versions(const std::vector<BenchResult>& results);

}  // namespace pvtune
