#include "host/bench/bench.h"

#include <algorithm>
#include <chrono>

namespace pvtune {

namespace {
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
}  // namespace

BenchResult time_entry(Backend& backend, const BenchEntry& entry, double seconds) {
    entry.run();
    backend.synchronize();
    std::vector<double> times;
    double total = 0;
    constexpr std::size_t fewest = 3;
    while (times.size() < fewest || total < seconds) {
        const double start = now();
        entry.run();
        backend.synchronize();
        times.push_back(now() - start);
        total += times.back();
    }
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return {entry.name, *middle, entry.bytes, entry.flops};
}

MachineLimits measure_limits(Backend& backend, DType precision) {
    Arena& arena = backend.arena();
    Ops& ops = backend.ops();
    constexpr std::int64_t elements = std::int64_t{1} << 25;  // 128 MiB: well past the caches
    const Tensor from = arena.allocate("limits", DType::f32, {elements});
    const Tensor to = arena.allocate("limits", DType::f32, {elements});
    constexpr std::int64_t side = 2048;
    const Tensor a = arena.allocate("limits", precision, {side, side});
    const Tensor b = arena.allocate("limits", precision, {side, side});
    const Tensor c = arena.allocate("limits", precision, {side, side});
    constexpr double seconds = 1;
    const auto best = [&](const std::function<void()>& run) {
        run();
        double least = 1e30;
        const double end = now() + seconds;
        for (int i = 0; i < 3 || now() < end; ++i) {
            const double start = now();
            run();
            backend.synchronize();
            least = std::min(least, now() - start);
        }
        return least;
    };
    MachineLimits limits;
    limits.copy_bytes_per_second = 2.0 * static_cast<double>(from.bytes()) / best([&] { ops.convert(to, from); });
    limits.flops_per_second = 2.0 * side * side * side / best([&] { ops.linear_forward(c, a, b, {}); });
    return limits;
}

}  // namespace pvtune
