// Nearest points of the codebooks of cuda/e8p.h. For one shift and one entry a of the table, the best signs are those
// of x less the shift, y; where their number has the wrong parity, the sign that costs least is changed. So the largest
// of
// <|y|, a> - |a|^2 / 2 - [wrong parity] 2 min_i |y_i| a_i - |y|^2 / 2 over 2 * 256 candidates is the nearest of the
// 65536 points. cuda/assign_lattice.cu has the same sums in the same order.
#include "host/backend/cpu/e8p_search.h"

#include "cuda/e8p.h"

#include <algorithm>
#include <cmath>

namespace pvtune::cpu {
namespace {

constexpr int dim = e8p::dim;
constexpr int entries = 256;
constexpr std::uint32_t no_code = 0xffffffffU;

/// Coordinate by coordinate, so that a vector register holds as many entries.
struct SearchTables {
    alignas(64) float magnitudes[dim][entries];
    alignas(64) float minus_half_norm[entries];
    alignas(64) std::int32_t odd[entries];
    alignas(64) float residuals[dim][entries];
    alignas(64) float residual_minus_half_norm[entries];
};

SearchTables make_search_tables() {
    SearchTables tables{};
    for (int e = 0; e < entries; ++e) {
        const auto index = static_cast<std::size_t>(e);
        const std::uint32_t magnitudes = e8p::tables().magnitudes[index];
        const std::uint32_t residual = e8p::tables().residuals[index];
        float norm = 0;
        float residual_norm = 0;
        for (int i = 0; i < dim; ++i) {
            const float magnitude = static_cast<float>(magnitudes >> (2 * i) & 3U) + 0.5F;
            const float value = static_cast<float>(e8p::halves(residual, i)) * 0.5F;
            tables.magnitudes[i][e] = magnitude;
            tables.residuals[i][e] = value;
            norm += magnitude * magnitude;
            residual_norm += value * value;
        }
        tables.minus_half_norm[e] = -0.5F * norm;
        tables.residual_minus_half_norm[e] = -0.5F * residual_norm;
        tables.odd[e] = static_cast<std::int32_t>(e8p::odd_sum(magnitudes));
    }
    return tables;
}

const SearchTables& search_tables() {
    static const SearchTables made = make_search_tables();
    return made;
}

/// The first of the largest scores.
int largest(const float* scores, float& best) {
    float most = scores[0];
#pragma omp simd reduction(max : most)
    for (int e = 0; e < entries; ++e) most = std::max(most, scores[e]);
    best = most;
    return static_cast<int>(std::find(scores, scores + entries, most) - scores);
}

E8pPoints make_points() {
    E8pPoints points;
    points.quarters.reserve(65536 * dim);
    for (std::uint32_t code = 0; code < 65536; ++code) {
        const std::uint32_t magnitudes = e8p::tables().magnitudes[code >> 8];
        const std::uint32_t signs = e8p::signs_of(code, magnitudes);
        for (int i = 0; i < dim; ++i) {
            points.quarters.push_back(static_cast<std::int8_t>(e8p::quarters(code, magnitudes, signs, i)));
        }
    }
    for (const std::uint32_t packed : e8p::tables().residuals) {
        for (int i = 0; i < dim; ++i) points.halves.push_back(static_cast<std::int8_t>(e8p::halves(packed, i)));
    }
    return points;
}

/// |y| of a shift, its squares, its signs.
struct Shifted {
    float size[dim];
    float energy = 0;
    std::uint32_t negative = 0;
    std::int32_t odd;

    Shifted(const float* x, std::uint32_t shift) {
        for (int i = 0; i < dim; ++i) {
            const float y = x[i] - (shift != 0 ? 0.25F : -0.25F);
            size[i] = std::fabs(y);
            energy = __builtin_fmaf(y, y, energy);
            negative |= (y < 0 ? 1U : 0U) << i;
        }
        odd = static_cast<std::int32_t>(e8p::parity(negative));
    }
};

/// The coordinate whose sign costs least to change, the lower of equal ones, but for `taken`.
int cheapest_sign(const SearchTables& tables, const Shifted& y, int e, int taken = -1) {
    int cheapest = taken == 0 ? 1 : 0;
    for (int i = cheapest + 1; i < dim; ++i) {
        if (i == taken) continue;
        if (y.size[i] * tables.magnitudes[i][e] < y.size[cheapest] * tables.magnitudes[cheapest][e]) cheapest = i;
    }
    return cheapest;
}

std::uint32_t best_signs(const SearchTables& tables, const Shifted& y, int e) {
    return tables.odd[e] != y.odd ? y.negative ^ 1U << cheapest_sign(tables, y, e) : y.negative;
}

/// The second-best signs of an entry: the second-cheapest sign instead of the cheapest, or both where none had to
/// change. Returns their score.
float second_signs(const SearchTables& tables, const Shifted& y, int e, std::uint32_t& negative) {
    const int first = cheapest_sign(tables, y, e);
    const int second = cheapest_sign(tables, y, e, first);
    float sum = tables.minus_half_norm[e];
    for (int i = 0; i < dim; ++i) sum = __builtin_fmaf(y.size[i], tables.magnitudes[i][e], sum);
    negative = y.negative ^ 1U << second;
    sum = __builtin_fmaf(-2 * y.size[second], tables.magnitudes[second][e], sum);
    if (tables.odd[e] != y.odd) return sum;
    negative ^= 1U << first;
    return __builtin_fmaf(-2 * y.size[first], tables.magnitudes[first][e], sum);
}

std::uint32_t code_of(int e, std::uint32_t negative, std::uint32_t shift) {
    return static_cast<std::uint32_t>(e) << 8 | (negative & 0x7fU) << 1 | shift;
}

std::uint32_t search_e8p(const float* x, std::uint32_t excluded) {
    const SearchTables& tables = search_tables();
    float best = -INFINITY;
    std::uint32_t code = 0;
    for (std::uint32_t shift = 0; shift < 2; ++shift) {
        const Shifted y(x, shift);
        alignas(64) float scores[entries];
#pragma omp simd
        for (int e = 0; e < entries; ++e) {
            float sum = tables.minus_half_norm[e];
            float least = INFINITY;
            for (int i = 0; i < dim; ++i) {
                const float product = y.size[i] * tables.magnitudes[i][e];
                sum = __builtin_fmaf(y.size[i], tables.magnitudes[i][e], sum);
                least = product < least ? product : least;
            }
            scores[e] = tables.odd[e] != y.odd ? sum - 2 * least : sum;
        }
        int second = -1;  // the entry that has to take its second-best signs
        std::uint32_t others = 0;
        if (excluded != no_code && (excluded & 1U) == shift) {
            const auto e = static_cast<int>(excluded >> 8);
            if (code_of(e, best_signs(tables, y, e), shift) == excluded) {
                second = e;
                scores[e] = second_signs(tables, y, e, others);
            }
        }
        float here = 0;
        const int e = largest(scores, here);
        here = __builtin_fmaf(-0.5F, y.energy, here);
        if (!(here > best)) continue;
        best = here;
        code = code_of(e, e == second ? others : best_signs(tables, y, e), shift);
    }
    return code;
}

std::uint32_t search_residuals(const float* x, std::uint32_t excluded) {
    const SearchTables& tables = search_tables();
    alignas(64) float scores[entries];
#pragma omp simd
    for (int e = 0; e < entries; ++e) {
        float sum = tables.residual_minus_half_norm[e];
        for (int i = 0; i < dim; ++i) sum = __builtin_fmaf(x[i], tables.residuals[i][e], sum);
        scores[e] = sum;
    }
    if (excluded != no_code) scores[excluded] = -INFINITY;
    float best = 0;
    return static_cast<std::uint32_t>(largest(scores, best)) & 0xffU;  // no place at all for what is not a number
}

/// What the second code stands for.
void residual_of(float* rest, const float* x, std::uint32_t code, std::int64_t bytes) {
    const std::int8_t* point = e8p_points().quarters.data() + code * dim;
    const float scale = bytes == 3 ? e8p::residual_scale_3_bits : e8p::residual_scale_4_bits;
    alignas(32) volatile float stored[dim];  // in memory: no contraction into what reads it
    for (int i = 0; i < dim; ++i) stored[i] = (x[i] - static_cast<float>(point[i]) * 0.25F) * scale;
    for (int i = 0; i < dim; ++i) rest[i] = stored[i];
}

std::uint32_t code_at(const std::uint8_t* codes) { return codes[0] | std::uint32_t{codes[1]} << 8; }

void put_code(std::uint8_t* codes, std::uint32_t code) {
    codes[0] = static_cast<std::uint8_t>(code & 0xff);
    codes[1] = static_cast<std::uint8_t>(code >> 8);
}

}  // namespace

const E8pPoints& e8p_points() {
    static const E8pPoints made = make_points();
    return made;
}

std::uint32_t nearest_e8p(const float* x) { return search_e8p(x, no_code); }

std::uint32_t nearest_other_e8p(const float* x, std::uint32_t excluded) { return search_e8p(x, excluded); }

std::uint32_t nearest_residual(const float* x) { return search_residuals(x, no_code); }

std::uint32_t nearest_other_residual(const float* x, std::uint32_t excluded) { return search_residuals(x, excluded); }

void decode_group(float* values, const std::uint8_t* codes, std::int64_t bytes) {
    const E8pPoints& points = e8p_points();
    const std::int8_t* first = points.quarters.data() + code_at(codes) * dim;
    if (bytes == 2) {
#pragma omp simd
        for (int i = 0; i < dim; ++i) values[i] = static_cast<float>(first[i]) * 0.25F;
        return;
    }
    const std::int8_t* second =
        bytes == 3 ? points.halves.data() + codes[2] * dim : points.quarters.data() + code_at(codes + 2) * dim;
    const float unit = bytes == 3 ? 0.5F / e8p::residual_scale_3_bits : 0.25F / e8p::residual_scale_4_bits;
#pragma omp simd
    for (int i = 0; i < dim; ++i) {
        values[i] = __builtin_fmaf(unit, static_cast<float>(second[i]), static_cast<float>(first[i]) * 0.25F);
    }
}

void encode_group(std::uint8_t* codes, const float* x, std::int64_t bytes) {
    const std::uint32_t code = nearest_e8p(x);
    put_code(codes, code);
    if (bytes == 2) return;
    float copy[dim];
    residual_of(copy, x, code, bytes);
    if (bytes == 3) {
        codes[2] = static_cast<std::uint8_t>(nearest_residual(copy));
    } else {
        put_code(codes + 2, nearest_e8p(copy));
    }
}

void change_one_code(std::uint8_t* codes, const float* x, std::int64_t bytes) {
    const std::uint32_t own = code_at(codes);
    if (bytes == 2) return put_code(codes, nearest_other_e8p(x, own));
    std::uint8_t first[4];
    std::uint8_t second[4];
    std::copy_n(codes, bytes, first);
    std::copy_n(codes, bytes, second);
    const E8pPoints& points = e8p_points();
    const std::int8_t* point =
        bytes == 3 ? points.halves.data() + codes[2] * dim : points.quarters.data() + code_at(codes + 2) * dim;
    const float unit = bytes == 3 ? 0.5F / e8p::residual_scale_3_bits : 0.25F / e8p::residual_scale_4_bits;
    float rest[dim];
    for (int i = 0; i < dim; ++i) rest[i] = __builtin_fmaf(-unit, static_cast<float>(point[i]), x[i]);
    put_code(first, nearest_other_e8p(rest, own));
    residual_of(rest, x, own, bytes);
    if (bytes == 3) {
        second[2] = static_cast<std::uint8_t>(nearest_other_residual(rest, codes[2]));
    } else {
        put_code(second + 2, nearest_other_e8p(rest, code_at(codes + 2)));
    }
    const bool take_second = group_distance(x, second, bytes) < group_distance(x, first, bytes);
    std::copy_n(take_second ? second : first, bytes, codes);
}

float group_distance(const float* x, const std::uint8_t* codes, std::int64_t bytes) {
    float values[dim];
    decode_group(values, codes, bytes);
    float sum = 0;
    for (int i = 0; i < dim; ++i) {
        const float difference = x[i] - values[i];
        sum = __builtin_fmaf(difference, difference, sum);
    }
    return sum;
}

}  // namespace pvtune::cpu
