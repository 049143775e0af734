#include "host/bench/table.h"

#include "host/common/text.h"

namespace pvtune {

namespace {

constexpr double giga = 1e9, tera = 1e12, milli = 1e-3;

std::string shape_line(const BenchShape& s) {
    const auto number = [](std::int64_t value) { return std::to_string(value); };
    return s.name + ": " + number(s.sequences) + " x " + number(s.length) + " tokens, width " + number(s.width) +
           ", intermediate " + number(s.intermediate) + ", heads " + number(s.heads) + "/" + number(s.kv_heads) +
           " of " + number(s.head_dim) + ", vocabulary " + number(s.vocabulary) + "\n";
}

std::string heading(const EarlierRun* earlier) {
    return format("  %-31s %10s %10s %9s %8s %8s %6s  %s\n", "op", "median ms", "fastest", "moved", "GB/s", "TFLOP/s",
                  "share", earlier == nullptr ? "limit" : "limit     ratio");
}

std::string row(const BenchResult& r, const BenchRun& run, const EarlierRun* earlier) {
    if (!r.skipped.empty()) return format("  %-31s skipped: %s\n", r.name().c_str(), r.skipped.c_str());
    const DType precision = run.precision == "bf16" ? DType::bf16 : DType::f32;
    const Share share = share_of(r, run.limits, precision);
    const double seconds = r.times.median;
    const std::string rate = r.flops > 0 ? format("%8.3f", r.flops / seconds / tera) : format("%8s", "-");
    std::string text = format("  %-31s %10.3f %10.3f %9s %8.1f %s %4.0f %%  %-8s", r.name().c_str(), seconds / milli,
                              r.times.fastest / milli, bytes_text(static_cast<std::int64_t>(r.bytes)).c_str(),
                              r.bytes / seconds / giga, rate.c_str(), 100 * share.value, share.limit);
    if (earlier != nullptr) {
        const std::optional<double> ratio = earlier->ratio(r);
        text += ratio ? format("  %5.2f%s", *ratio, *ratio > slower_ratio ? "  slower" : "") : "      -";
    }
    return text.substr(0, text.find_last_not_of(' ') + 1) + "\n";
}

}  // namespace

std::string table_text(const BenchRun& run, const EarlierRun* earlier) {
    std::string text = "bench on " + run.device + ", " + run.precision + "\n";
    text += format("measured in this run: copy %.1f GB/s, GEMM %.3f TFLOP/s", run.limits.copy_bytes_per_second / giga,
                   run.limits.flops_per_second / tera);
    if (run.precision != "f32") text += format(", in f32 %.3f TFLOP/s", run.limits.f32_flops_per_second / tera);
    text += "; caches flushed with " + bytes_text(run.flushed_bytes) + " before every call\n";
    const std::string* shape = nullptr;
    int slower = 0;
    for (const BenchResult& result : run.results) {
        if (shape == nullptr || *shape != result.shape.name) text += "\n" + shape_line(result.shape) + heading(earlier);
        shape = &result.shape.name;
        text += row(result, run, earlier);
        if (earlier != nullptr && earlier->ratio(result).value_or(0) > slower_ratio) ++slower;
    }
    for (const std::string& line : faster_versions(run.results)) text += "note: " + line + "\n";
    if (earlier == nullptr) return text;
    text += format("\ntime as a multiple of the earlier run's: %d more than %.0f %% slower\n", slower,
                   100 * (slower_ratio - 1));
    if (earlier->device != run.device || earlier->precision != run.precision)
        text += "the earlier run was on " + earlier->device + ", " + earlier->precision + "\n";
    return text;
}

}  // namespace pvtune
