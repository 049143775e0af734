#include "host/bench/result.h"

#include "host/common/text.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <fstream>

namespace pvtune {

namespace {

using nlohmann::ordered_json;

constexpr int format_version = 1;
constexpr const char* format_key = "pvtune_bench";

/// Sizes rather than the shape's name: names may come to mean something else.
std::string key_of(const std::string& name, const ordered_json& sizes) { return name + " " + sizes.dump(); }

const char* rate_name(DType products, DType precision) { return products == precision ? "GEMM" : "f32 GEMM"; }

ordered_json entry_json(const BenchResult& r, const BenchRun& run, DType precision) {
    ordered_json json = {{"op", r.op}, {"version", r.version}};
    if (!r.reason.empty()) json["reason"] = r.reason;
    json["shape"] = r.shape.name;
    json["bytes"] = r.bytes;
    json["flops"] = r.flops;
    if (!r.skipped.empty()) {
        json["skipped"] = r.skipped;
        return json;
    }
    const Share share = share_of(r, run.limits, precision);
    json["seconds"] = r.times.median;
    json["fastest_seconds"] = r.times.fastest;
    json["runs"] = r.times.runs;
    json["bytes_per_second"] = r.bytes / r.times.median;
    json["flops_per_second"] = r.flops / r.times.median;
    json["share"] = share.value;
    json["limit"] = share.limit;
    return json;
}

}  // namespace

Share share_of(const BenchResult& result, const MachineLimits& limits, DType precision) {
    const double copy = result.bytes / limits.copy_bytes_per_second;
    const double products = result.flops > 0 ? result.flops / limits.rate(result.products, precision) : 0;
    if (products > copy) return {products / result.times.median, rate_name(result.products, precision)};
    return {copy / result.times.median, "copy"};
}

ordered_json to_json(const BenchRun& run) {
    const DType precision = run.precision == "bf16" ? DType::bf16 : DType::f32;
    ordered_json shapes = ordered_json::object();
    ordered_json entries = ordered_json::array();
    for (const BenchResult& result : run.results) {
        shapes[result.shape.name] = sizes_json(result.shape);
        entries.push_back(entry_json(result, run, precision));
    }
    return {{format_key, format_version},
            {"device", run.device},
            {"precision", run.precision},
            {"threads", run.threads},
            {"limits",
             {{"copy_bytes_per_second", run.limits.copy_bytes_per_second},
              {"gemm_flops_per_second", run.limits.flops_per_second},
              {"f32_gemm_flops_per_second", run.limits.f32_flops_per_second}}},
            {"flushed_bytes", run.flushed_bytes},
            {"shapes", shapes},
            {"entries", entries}};
}

std::optional<double> EarlierRun::ratio(const BenchResult& result) const {
    const auto found = seconds.find(key_of(result.name(), sizes_json(result.shape)));
    if (found == seconds.end() || !result.skipped.empty()) return std::nullopt;
    return result.times.median / found->second;
}

EarlierRun read_earlier_run(const std::string& path) {
    const std::string flag = "--compare " + path;
    std::ifstream file(path);
    if (!file) throw Error(flag + ": no such file, or it cannot be read");
    try {
        const ordered_json json = ordered_json::parse(file);
        if (!json.is_object() || !json.contains(format_key))
            throw Error(flag + ": not a result of pvtune bench: give what --out wrote");
        if (json.at(format_key) != format_version)
            throw Error(flag + ": written by a newer pvtune: measure again with this one");
        EarlierRun run;
        json.at("device").get_to(run.device);
        json.at("precision").get_to(run.precision);
        for (const ordered_json& entry : json.at("entries")) {
            if (entry.contains("skipped")) continue;
            const auto version = entry.at("version").get<std::string>();
            const auto op = entry.at("op").get<std::string>();
            const auto seconds = entry.at("seconds").get<double>();
            if (!(seconds > 0) || !std::isfinite(seconds)) throw Error(flag + ": damaged: " + op + " took no time");
            const ordered_json& sizes = json.at("shapes").at(entry.at("shape").get<std::string>());
            run.seconds[key_of(version.empty() ? op : op + "@" + version, sizes)] = seconds;
        }
        return run;
    } catch (const ordered_json::exception&) {
        throw Error(flag + ": damaged, or not a result of pvtune bench: give what --out wrote");
    }
}

std::vector<std::string> faster_versions(const std::vector<BenchResult>& results) {
    std::vector<std::string> found;
    const BenchResult* standard = nullptr;
    for (const BenchResult& result : results) {
        if (result.version.empty()) standard = &result;
        if (result.version.empty() || standard == nullptr || standard->op != result.op) continue;
        if (!result.skipped.empty() || !standard->skipped.empty() || standard->shape.name != result.shape.name)
            continue;
        const double ratio = result.times.median / standard->times.median;
        // Both, for medians alone change with what else a shared machine does.
        const double fastest = result.times.fastest / standard->times.fastest;
        if (std::max(ratio, fastest) * slower_ratio < 1)
            found.push_back(format("%s (%s) takes %.2f of the time of %s", result.name().c_str(),
                                   result.shape.name.c_str(), ratio, result.op.c_str()));
    }
    return found;
}

}  // namespace pvtune
