#include "host/bench/measure.h"

#include "host/common/interrupt.h"

#include <algorithm>
#include <chrono>

namespace pvtune {

namespace {

using Clock = std::chrono::steady_clock;

/// Device seconds of what `run` launches.
double seconds_of(Backend& backend, const std::function<void()>& run) {
    backend.enter_phase(0, "bench");
    run();
    return backend.end_phases(1).front();
}

/// The least of several tries.
double least_seconds(Backend& backend, const std::function<void()>& run, double seconds) {
    constexpr int fewest = 3, most = 200;
    double least = seconds_of(backend, run);
    double total = 0;
    for (int i = 0; i < most && (i < fewest || total < seconds); ++i) {
        stop_if_interrupted();
        const double taken = seconds_of(backend, run);
        total += taken;
        least = std::min(least, taken);
    }
    return least;
}

double copy_rate(const BenchSetting& setting, Operands& operands, bool counting) {
    const std::int64_t elements = 2 * flush_bytes(*setting.backend) / size_of(DType::f32);
    const Tensor from = operands.random(DType::f32, {elements});
    const Tensor to = operands.zeros(DType::f32, {elements});
    if (counting) return 0;
    constexpr double seconds = 0.5;
    const double least = least_seconds(
        *setting.backend, [&] { setting.ops().convert(to, from); }, seconds);
    return bytes_of({from, to}) / least;
}

/// The best rate of square products, each twice the side of the one before, up to the first that takes longer than a
/// moment: fast devices need large ones.
double product_rate(const BenchSetting& setting, Operands& operands, DType dtype, bool counting) {
    constexpr std::int64_t smallest = 256;
    const std::int64_t largest = setting.on_cpu ? 2048 : 8192;
    const Tensor left = operands.random(dtype, {largest, largest});
    const Tensor right = operands.random(dtype, {largest, largest});
    const Tensor result = operands.fresh(dtype, {largest, largest});
    double best = 0;
    constexpr double moment = 0.1, seconds = 0.3;
    double least = 0;
    for (std::int64_t side = smallest; side <= largest && !counting && least < moment; side *= 2) {
        const auto square = [&](Tensor whole) { return Tensor(whole.data, dtype, {side, side}); };
        least = least_seconds(
            *setting.backend, [&] { setting.ops().linear_forward(square(result), square(left), square(right), {}); },
            seconds);
        best = std::max(best, 2 * static_cast<double>(side * side * side) / least);
    }
    return best;
}

}  // namespace

std::int64_t flush_bytes(const Backend& backend) { return 2 * backend.cache_bytes(); }

MachineLimits measure_limits(const BenchSetting& setting, Operands& operands) {
    const bool counting = operands.counting();
    MachineLimits limits;
    limits.copy_bytes_per_second = copy_rate(setting, operands, counting);
    operands.reset();
    limits.f32_flops_per_second = product_rate(setting, operands, DType::f32, counting);
    operands.reset();
    limits.flops_per_second = setting.precision == DType::f32
                                  ? limits.f32_flops_per_second
                                  : product_rate(setting, operands, setting.precision, counting);
    return limits;
}

CallTimes time_call(Backend& backend, const BenchCall& call, Tensor flush, double seconds) {
    constexpr std::size_t fewest = 3, most = 200;
    const auto once = [&] {
        stop_if_interrupted();
        if (call.before) call.before();
        backend.ops().add(flush, flush, flush);  // zeros stay zeros
        return seconds_of(backend, call.run);
    };
    once();
    once();
    std::vector<double> times;
    const auto start = Clock::now();
    const auto spent = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    while (times.size() < most && (times.size() < fewest || spent() < seconds)) times.push_back(once());
    std::sort(times.begin(), times.end());
    return {times[times.size() / 2], times.front(), static_cast<int>(times.size())};
}

}  // namespace pvtune
