// A matrix into the quip representation: signs, transforms, scale, codes.
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/e8p_search.h"
#include "host/backend/cpu/hadamard.h"
#include "host/quant/device_scratch.h"
#include "host/quant/ldlq.h"
#include "host/quant/quip.h"
#include "host/quant/random.h"
#include "io/error.h"

#include <chrono>
#include <cmath>

namespace pvtune {
namespace {

constexpr std::int64_t group = QuipRepresentation::lattice_group;
constexpr std::int64_t groups_per_chunk = 256;
constexpr std::int64_t sampled_groups = 2048;

std::vector<float> random_signs(Random& random, std::int64_t count) {
    std::vector<float> signs(static_cast<std::size_t>(count));
    for (float& sign : signs) sign = (random.next() >> 63) != 0 ? -1.0F : 1.0F;
    return signs;
}

/// H diag(left) values diag(right) H.
void turn(std::vector<float>& values, const std::vector<float>& left, const std::vector<float>& right) {
    const auto rows = static_cast<std::int64_t>(left.size());
    const auto columns = static_cast<std::int64_t>(right.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] *= left[i / right.size()] * right[i % right.size()];
    cpu::transform_rows(values.data(), rows, columns);
    cpu::transform_columns(values.data(), rows, columns);
}

/// What the error and the best scale follow from; H is the identity where there is none.
struct Sums {
    double target = 0;   ///< tr(Z H Z^T)
    double crossed = 0;  ///< tr(Z H Q^T)
    double codes = 0;    ///< tr(Q H Q^T)

    double best_scale(double otherwise) const { return codes > 0 && crossed > 0 ? crossed / codes : otherwise; }
    double error(double scale) const { return std::max(0.0, target - 2 * scale * crossed + scale * scale * codes); }
};

Sums sums_of(std::span<const float> target, std::span<const float> values) {
    const auto count = static_cast<std::int64_t>(target.size());
    constexpr std::int64_t chunk = 1 << 14;
    std::vector<double> targets(static_cast<std::size_t>(cpu::chunk_count(count, chunk)));
    std::vector<double> crossed(targets.size());
    std::vector<double> codes(targets.size());
    cpu::for_chunks(count, chunk, [&](std::int64_t index, std::int64_t begin, std::int64_t end) {
        const auto at = static_cast<std::size_t>(index);
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
            const auto z = static_cast<double>(target[i]);
            const auto q = static_cast<double>(values[i]);
            targets[at] += z * z;
            crossed[at] += z * q;
            codes[at] += q * q;
        }
    });
    return {cpu::ordered_sum(targets), cpu::ordered_sum(crossed), cpu::ordered_sum(codes)};
}

std::vector<std::uint8_t> nearest_codes(std::span<const float> target, std::int64_t bytes) {
    const auto groups = static_cast<std::int64_t>(target.size()) / group;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(groups * bytes));
    cpu::for_chunks(groups, groups_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t g = begin; g < end; ++g) {
            cpu::encode_group(codes.data() + g * bytes, target.data() + g * group, bytes);
        }
    });
    return codes;
}

std::vector<float> decoded(std::span<const std::uint8_t> codes, std::int64_t bytes) {
    const auto groups = static_cast<std::int64_t>(codes.size()) / bytes;
    std::vector<float> values(static_cast<std::size_t>(groups * group));
    cpu::for_chunks(groups, groups_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t g = begin; g < end; ++g) {
            cpu::decode_group(values.data() + g * group, codes.data() + g * bytes, bytes);
        }
    });
    return values;
}

std::vector<float> divided(std::span<const float> values, double scale) {
    std::vector<float> out(values.begin(), values.end());
    const auto inverse = static_cast<float>(1 / scale);
    for (float& value : out) value *= inverse;
    return out;
}

std::vector<std::uint8_t> codes_under(Backend& backend, std::span<const float> target, std::int64_t rows,
                                      std::int64_t bytes, std::span<const float> shares) {
    const std::int64_t columns = static_cast<std::int64_t>(target.size()) / rows;
    DeviceScratch scratch(backend);
    const Tensor codes = scratch.allocate(DType::u8, {rows, columns / group, bytes});
    backend.ops().ldlq(codes, scratch.upload(target, {rows, columns}), scratch.upload(shares, {columns, columns}));
    return scratch.download<std::uint8_t>(codes);
}

Sums sums_under(Backend& backend, std::span<const float> target, std::span<const float> values, std::int64_t rows,
                std::span<const float> hessian) {
    const std::int64_t columns = static_cast<std::int64_t>(target.size()) / rows;
    DeviceScratch scratch(backend);
    const Tensor z = scratch.upload(target, {rows, columns});
    const Tensor q = scratch.upload(values, {rows, columns});
    const Tensor h = scratch.upload(hessian, {columns, columns});
    return {scratch.hessian_product(z, z, h), scratch.hessian_product(z, q, h), scratch.hessian_product(q, q, h)};
}

/// The scale with the least error of nearest codes on evenly spread groups: a coarse grid around the root mean square
/// of the weights, which is about where it lies for Gaussian ones, then a fine one around the best.
double search_scale(const std::string& name, std::span<const float> turned, std::int64_t bytes) {
    const auto groups = static_cast<std::int64_t>(turned.size()) / group;
    const std::int64_t count = std::min(groups, sampled_groups);
    std::vector<float> sample;
    for (std::int64_t i = 0; i < count; ++i) {
        const float* from = turned.data() + i * groups / count * group;
        sample.insert(sample.end(), from, from + group);
    }
    const double rms = std::sqrt(sums_of(sample, sample).target / static_cast<double>(sample.size()));
    if (!std::isfinite(rms)) throw Error("tensor '" + name + "': the weights are too large for f32 transforms");
    if (rms == 0) return 0;
    double best = rms;
    double least = INFINITY;
    const auto try_around = [&](double middle, double step, int steps) {
        for (int i = -steps; i <= steps; ++i) {
            const double scale = (middle + step * i) * rms;
            const auto codes = nearest_codes(divided(sample, scale), bytes);
            const Sums sums = sums_of(sample, decoded(codes, bytes));
            const double error = sums.error(sums.best_scale(scale));
            if (!(error < least)) continue;
            least = error;
            best = scale;
        }
    };
    try_around(1, 0.05, 8);
    try_around(best / rms, 0.01, 4);
    return best;
}

}  // namespace

std::unique_ptr<Representation> quantize_quip(Backend& backend, const std::string& name, std::span<const float> weight,
                                              std::int64_t rows, std::int64_t columns, const QuantizationSpec& spec,
                                              std::uint64_t seed, std::span<const float> hessian,
                                              QuantizationReport* report) {
    const auto start = std::chrono::steady_clock::now();
    check_quip_sizes(name, rows, columns);
    check_finite(name, weight, columns);
    Random random(seed);
    const std::vector<float> left = random_signs(random, rows);
    const std::vector<float> right = random_signs(random, columns);
    const std::int64_t bytes = spec.code_bits;

    std::vector<float> turned(weight.begin(), weight.end());
    turn(turned, left, right);
    double scale = search_scale(name, turned, bytes);
    QuantizationReport result;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * (columns / group) * bytes));
    if (scale > 0) {
        const std::vector<float> target = divided(turned, scale);
        if (hessian.empty()) {
            codes = nearest_codes(target, bytes);
            scale = sums_of(turned, decoded(codes, bytes)).best_scale(scale);
        } else {
            std::vector<float> turned_hessian(hessian.begin(), hessian.end());
            turn(turned_hessian, right, right);
            codes = codes_under(backend, target, rows, bytes, ldlq_shares(turned_hessian, columns));
            const Sums sums = sums_under(backend, turned, decoded(codes, bytes), rows, turned_hessian);
            const double best = sums.best_scale(scale);
            if (std::isfinite(best)) scale = best;
            result.output_error = sums.error(static_cast<double>(static_cast<float>(scale)));
            result.output_norm = sums.target;
        }
    }
    const auto stored = static_cast<float>(scale);
    const Sums sums = sums_of(turned, decoded(codes, bytes));
    result.squared_norm = sums.target;
    result.squared_error = sums.error(static_cast<double>(stored));
    auto representation = std::make_unique<QuipRepresentation>(backend, rows, columns, static_cast<int>(bytes), true);
    representation->upload(backend, codes, stored, left, right);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (report != nullptr) *report = result;
    return representation;
}

}  // namespace pvtune
