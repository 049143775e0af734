// Data-free additive codes: the least |W - What|^2 that alternating steps reach.
// 1. Rows are divided by their RMS norms s_o; groups of row o then count s_o^2 in every sum.
// 2. On a sample of the groups: k-means, then rounds of codes (beam search) and codebooks (least squares). Several
//    codebooks start as a product quantiser, each on a part of the dimensions (Jegou et al. 2011), where that is no
//    poorer than what the codebooks leave one another: on a layer of SmolLM2 it ends 2 % lower than residual k-means.
// 3. On all groups: rounds of codes, codebooks and row scales, then the codes that are kept, for codebooks that
//    have the 16 bits of the file already.
#include "host/quant/initialize.h"

#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"
#include "host/common/index_of.h"
#include "host/quant/additive.h"
#include "host/quant/device_search.h"
#include "host/quant/kmeans.h"
#include "host/quant/random.h"
#include "io/error.h"

#include <chrono>
#include <cmath>

namespace pvtune {
namespace {

using cpu::for_chunks;

constexpr std::int64_t rows_per_chunk = 16;
// Codewords: a round costs codewords * groups, some seconds for 2^16.
constexpr std::int64_t large = 4096;

struct Work {
    std::string name;
    std::span<const float> weight;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t group = 0;
    std::int64_t books = 0;
    std::int64_t size = 0;
    std::int64_t row_groups = 0;
    std::vector<float> scales;         ///< [rows]
    std::vector<float> points;         ///< weight / scale
    std::vector<float> point_weights;  ///< scale^2 a group, over the largest of them
    std::vector<float> codebooks;
    std::vector<std::uint16_t> codes;

    std::int64_t groups() const { return rows * row_groups; }
    WeightedPoints weighted() const { return {points, point_weights, group}; }
    Codebooks all_books() { return {codebooks, books, size}; }
    Codebooks book(std::int64_t m) {
        return {std::span(codebooks).subspan(index_of(m * size * group), index_of(size * group)), 1, size};
    }
};

/// scale[o] = RMS of row o.
void initial_scales(Work& work) {
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            double sum = 0;
            for (std::int64_t i = row * work.columns; i < (row + 1) * work.columns; ++i) {
                const auto value = static_cast<double>(work.weight[index_of(i)]);
                sum += value * value;
            }
            work.scales[index_of(row)] = static_cast<float>(std::sqrt(sum / static_cast<double>(work.columns)));
        }
    });
}

void scale_points(Work& work) {
    float largest = 0;
    for (const float scale : work.scales) largest = std::max(largest, std::abs(scale));
    for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const float scale = work.scales[index_of(row)];
            const float inverse = std::isfinite(1 / scale) ? 1 / scale : 0;
            for (std::int64_t i = row * work.columns; i < (row + 1) * work.columns; ++i) {
                work.points[index_of(i)] = work.weight[index_of(i)] * inverse;
            }
            const float share = inverse != 0 ? scale / largest : 0;
            for (std::int64_t g = row * work.row_groups; g < (row + 1) * work.row_groups; ++g) {
                work.point_weights[index_of(g)] = share * share;
            }
        }
    });
}

/// Least-squares scales for the present codes, rounded as asked. Returns |W - What|^2.
double fit_scales(Work& work, bool round) {
    std::vector<double> errors(index_of(work.rows));
    with_group(work.group, [&]<int group>() {
        for_chunks(work.rows, rows_per_chunk, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                double weight_encoded = 0;
                double encoded_encoded = 0;
                double weight_weight = 0;
                for (std::int64_t g = row * work.row_groups; g < (row + 1) * work.row_groups; ++g) {
                    float encoded[group] = {};
                    for (std::int64_t m = 0; m < work.books; ++m) {
                        const std::int64_t code = m * work.size + work.codes[index_of(g * work.books + m)];
                        const float* codeword = work.codebooks.data() + code * group;
                        for (int i = 0; i < group; ++i) encoded[i] += codeword[i];
                    }
                    for (int i = 0; i < group; ++i) {
                        const auto value = static_cast<double>(work.weight[index_of(g * group + i)]);
                        const auto other = static_cast<double>(encoded[i]);
                        weight_encoded += value * other;
                        encoded_encoded += other * other;
                        weight_weight += value * value;
                    }
                }
                float& scale = work.scales[index_of(row)];
                // A row whose codes say nothing of it (it had next to no weight in the codebooks) keeps its norm.
                const auto fitted = static_cast<float>(weight_encoded / encoded_encoded);
                if (fitted > 0 && std::isfinite(round_to_f16(fitted))) scale = fitted;
                if (round) scale = round_to_f16(scale);
                const auto s = static_cast<double>(scale);
                errors[index_of(row)] = weight_weight - 2 * s * weight_encoded + s * s * encoded_encoded;
            }
        });
    });
    return cpu::ordered_sum(errors);
}

/// One group out of each of `count` equal parts of the groups.
void draw_sample(const Work& work, std::int64_t count, Random& random, std::vector<float>& points,
                 std::vector<float>& weights) {
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t first = i * work.groups() / count;
        const std::int64_t g = first + random.below((i + 1) * work.groups() / count - first);
        const auto* from = work.points.data() + g * work.group;
        points.insert(points.end(), from, from + work.group);
        weights.push_back(work.point_weights[index_of(g)]);
    }
}

void fit_to_sample(Backend& backend, Work& work, Random& random, const InitializeSettings& settings) {
    const std::int64_t group = work.group;
    const std::int64_t books = work.books;
    const std::int64_t count = std::min(work.groups(), std::max(settings.sample, 2 * work.size));
    std::vector<float> points;
    std::vector<float> weights;
    draw_sample(work, count, random, points, weights);

    // One codebook has no rounds of its own: they are what k-means does.
    const KMeansSettings kmeans_settings{settings.kmeans_iterations + (books == 1 ? settings.sample_rounds : 0), 0};
    constexpr int iterations_of_large = 3;
    const bool product = 2 * books <= group;
    std::vector<std::uint16_t> codes(index_of(count * books));
    std::vector<std::uint16_t> own(index_of(count));
    std::vector<float> rest = points;
    for (std::int64_t m = 0; m < books; ++m) {
        std::vector<float> part = rest;
        for (std::int64_t i = 0; product && i < count * group; ++i) {
            if (i % group * books / group != m) part[index_of(i)] = 0;
        }
        const Codebooks book = work.book(m);
        KMeansSettings own_settings = kmeans_settings;
        if (work.size > large) own_settings.iterations = std::min(own_settings.iterations, iterations_of_large);
        own_settings.seed = random.next();
        kmeans(backend, {part, weights, group}, book, own, own_settings);
        for (std::int64_t g = 0; g < count; ++g) {
            const std::int64_t code = own[index_of(g)];
            codes[index_of(g * books + m)] = own[index_of(g)];
            for (std::int64_t i = 0; i < group; ++i) {
                rest[index_of(g * group + i)] -= book.values[index_of(code * group + i)];
            }
        }
    }
    if (books == 1) return;
    const WeightedPoints sample{points, weights, group};
    for (int round = 0; round < settings.sample_rounds; ++round) {
        search_codes(backend, sample, work.all_books(), codes, settings.sample_beam, 1);
        reseed_unused(sample, work.all_books(), codes);
        fit_codebooks(sample, work.all_books(), codes);
    }
}

void check_storable(const Work& work) {
    for (std::int64_t row = 0; row < work.rows; ++row) {
        if (std::isfinite(work.scales[index_of(row)])) continue;
        throw Error("tensor '" + work.name + "': row " + std::to_string(row) +
                    " is too large for a 16-bit scale; the model is damaged, import it again");
    }
}

}  // namespace

void check_finite(const std::string& name, std::span<const float> weight, std::int64_t columns) {
    const auto bad = std::find_if(weight.begin(), weight.end(), [](float x) { return !std::isfinite(x); });
    if (bad == weight.end()) return;
    const std::int64_t at = bad - weight.begin();
    throw Error("tensor '" + name + "': weight [" + std::to_string(at / columns) + ", " + std::to_string(at % columns) +
                "] is " + std::to_string(*bad) + "; the model is damaged, import it again");
}

EncodedMatrix encode_additive(Backend& backend, const std::string& name, std::span<const float> weight,
                              std::int64_t rows, std::int64_t columns, const QuantizationSpec& spec, std::uint64_t seed,
                              QuantizationReport* report, const InitializeSettings& settings) {
    const auto start = std::chrono::steady_clock::now();
    check_spec(spec);
    check_columns(name, columns, spec.group);
    assert(static_cast<std::int64_t>(weight.size()) == rows * columns);
    Work work;
    work.name = name;
    work.weight = weight;
    work.rows = rows;
    work.columns = columns;
    work.group = spec.group;
    work.books = spec.codebooks;
    work.size = std::int64_t{1} << spec.code_bits;
    work.row_groups = columns / spec.group;
    check_finite(name, weight, columns);
    work.scales.resize(index_of(rows));
    work.points.resize(weight.size());
    work.point_weights.resize(index_of(work.groups()));
    work.codebooks.resize(index_of(work.books * work.size * work.group));
    work.codes.resize(index_of(work.groups() * work.books));

    Random random(seed);
    initial_scales(work);
    scale_points(work);
    fit_to_sample(backend, work, random, settings);
    // The first codes of all groups start from nowhere: a second sweep lets the first codebook see the second's code.
    int sweeps = work.books == 1 ? 1 : 2;
    const int rounds = work.books == 1 && work.size <= large ? settings.rounds_of_one : settings.rounds;
    for (int round = 0; round < rounds; ++round) {
        search_codes(backend, work.weighted(), work.all_books(), work.codes, settings.beam, sweeps);
        reseed_unused(work.weighted(), work.all_books(), work.codes);
        fit_codebooks(work.weighted(), work.all_books(), work.codes);
        fit_scales(work, false);
        scale_points(work);
        sweeps = 1;
    }
    std::transform(work.codebooks.begin(), work.codebooks.end(), work.codebooks.begin(), round_to_f16);
    search_codes(backend, work.weighted(), work.all_books(), work.codes, settings.beam, sweeps);
    const double squared_error = fit_scales(work, true);
    check_storable(work);

    if (report) {
        report->squared_error = squared_error;
        report->squared_norm = cpu::sum_of_squares(
            Tensor(const_cast<float*>(weight.data()), DType::f32, {static_cast<std::int64_t>(weight.size())}));
        report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return {std::move(work.codes), std::move(work.codebooks), std::move(work.scales)};
}

}  // namespace pvtune
