// The best change of a single code of a group, over all codebooks and codewords: the nearest other encoding
// (assign_different), and the change that gains most for its length (eager_score). With x_m = the group's rest plus its
// own codeword of codebook m, a change to codeword c leaves the rest x_m - c.
#include "host/backend/cpu/beam_search.h"
#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/quant_ops.h"

#include <cmath>
#include <limits>

namespace pvtune::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t most_group = 16;
constexpr std::int64_t piece = 256;  ///< codewords at a time
constexpr std::int64_t chunk_groups = 512;
constexpr std::uint32_t none = 0xffffffffU;

struct Best {
    float value = -infinity;
    std::uint32_t change = none;  ///< codebook * codebook_size + code
};

/// fill(values, columns, first, count): values[k] of codeword first + k, of which larger is better; columns [group,
/// stride] are the codewords transposed. The codeword `own` is left out; ties go to the lower one.
template <class Fill>
void search_codebook(Best& best, const CodebookTables& tables, std::int64_t m, std::int64_t own, const Fill& fill) {
    const float* columns = tables.transposed.data() + m * tables.group * tables.stride;
    for (std::int64_t first = 0; first < tables.size; first += piece) {
        alignas(64) float values[piece];
        const std::int64_t count = std::min(piece, tables.size - first);
        fill(values, columns + first, count);
        if (own >= first && own < first + count) values[own - first] = -infinity;
        float largest = -infinity;
#pragma omp simd reduction(max : largest)
        for (std::int64_t k = 0; k < count; ++k) largest = values[k] > largest ? values[k] : largest;
        if (!(largest > best.value)) continue;
        const float* const at = std::find(values, values + count, largest);
        best = {largest, static_cast<std::uint32_t>(m * tables.size + first + (at - values))};
    }
}

CodebookTables tables_of(const AdditiveCodes& additive) {
    return make_codebook_tables(additive.codebooks.as<float>(), additive.codebooks.dim(0), additive.codebooks.dim(1),
                                additive.codebooks.dim(2), 1, {});
}

}  // namespace

void assign_different(const AdditiveCodes& additive, Tensor changed, Tensor target, Tensor groups) {
    const std::int64_t row_groups = additive.codes.dim(1);
    const CodebookTables tables = tables_of(additive);
    const std::int64_t group = tables.group;
    with_code_type(additive.codes.dtype, [&]<class Code>() {
        for_chunks(groups.elements(), chunk_groups, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                if (changed.as<std::uint8_t>()[i] != 0) continue;
                const std::int64_t at = groups.as<std::uint32_t>()[i];
                Code* own = additive.codes.as<Code>() + at * tables.books;
                const float inverse = 1 / additive.scales.as<float>()[at / row_groups];
                if (!std::isfinite(inverse)) continue;
                const auto codeword = [&](std::int64_t m) {
                    return tables.codewords.data() + (m * tables.size + own[m]) * group;
                };
                float rest[most_group];
                for (std::int64_t e = 0; e < group; ++e) rest[e] = target.as<float>()[at * group + e] * inverse;
                for (std::int64_t m = 0; m < tables.books; ++m) {
                    for (std::int64_t e = 0; e < group; ++e) rest[e] -= codeword(m)[e];
                }
                Best best;
                for (std::int64_t m = 0; m < tables.books; ++m) {
                    float x[most_group];
                    for (std::int64_t e = 0; e < group; ++e) x[e] = rest[e] + codeword(m)[e];
                    const auto fill = [&](float* __restrict values, const float* columns, std::int64_t count) {
                        std::fill_n(values, count, 0.0F);
                        for (std::int64_t e = 0; e < group; ++e) {
                            const float* __restrict column = columns + e * tables.stride;
#pragma omp simd
                            for (std::int64_t k = 0; k < count; ++k) {
                                const float left = x[e] - column[k];
                                values[k] -= left * left;
                            }
                        }
                    };
                    search_codebook(best, tables, m, own[m], fill);
                }
                if (best.change == none) continue;
                own[best.change / tables.size] = static_cast<Code>(best.change % tables.size);
                changed.as<std::uint8_t>()[i] = 1;
            }
        });
    });
}

void eager_score(Tensor scores, Tensor changes, const AdditiveCodes& additive, Tensor gradient, Tensor second_moment,
                 float correction, float epsilon) {
    const std::int64_t row_groups = additive.codes.dim(1);
    const CodebookTables tables = tables_of(additive);
    const std::int64_t group = tables.group;
    const auto run = [&]<class Code, class Moment>() {
        for_chunks(scores.elements(), chunk_groups, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t at = begin; at < end; ++at) {
                const Code* own = additive.codes.as<Code>() + at * tables.books;
                // Delta = scale * difference: <g, Delta> / |Delta|_D^2 has the scale once, below.
                const float inverse = 1 / additive.scales.as<float>()[at / row_groups];
                float g[most_group];
                float curvature[most_group];
                for (std::int64_t e = 0; e < group; ++e) {
                    g[e] = -inverse * gradient.as<float>()[at * group + e];
                    const float v = to_float(second_moment.as<Moment>()[at * group + e]);
                    curvature[e] = std::sqrt(v * correction) + epsilon;
                }
                Best best;
                for (std::int64_t m = 0; m < tables.books; ++m) {
                    const float* now = tables.codewords.data() + (m * tables.size + own[m]) * group;
                    const auto fill = [&](float* __restrict values, const float* columns, std::int64_t count) {
                        alignas(64) float squares[piece] = {};
                        std::fill_n(values, count, 0.0F);
                        for (std::int64_t e = 0; e < group; ++e) {
                            const float* __restrict column = columns + e * tables.stride;
#pragma omp simd
                            for (std::int64_t k = 0; k < count; ++k) {
                                const float difference = column[k] - now[e];
                                values[k] += g[e] * difference;
                                squares[k] += curvature[e] * difference * difference;
                            }
                        }
#pragma omp simd
                        for (std::int64_t k = 0; k < count; ++k) {
                            values[k] = squares[k] > 0 ? values[k] / squares[k] : -infinity;
                        }
                    };
                    search_codebook(best, tables, m, own[m], fill);
                }
                const bool found = std::isfinite(inverse) && best.change != none;
                scores.as<float>()[at] = found ? best.value : -infinity;
                changes.as<std::uint32_t>()[at] = found ? best.change : none;
            }
        });
    };
    with_code_type(additive.codes.dtype, [&]<class Code>() {
        with_float_type(second_moment.dtype, [&]<class Moment>() { run.template operator()<Code, Moment>(); });
    });
}

void apply_changes(Tensor codes, Tensor changed, Tensor changes, Tensor scores, Tensor groups,
                   std::int64_t codebook_size) {
    const std::int64_t width = codes.elements() / scores.elements();
    with_code_type(codes.dtype, [&]<class Code>() {
        for (std::int64_t i = 0; i < groups.elements(); ++i) {
            const std::int64_t at = groups.as<std::uint32_t>()[i];
            const bool pays = scores.as<float>()[at] > 0;
            changed.as<std::uint8_t>()[i] = pays ? 1 : 0;
            if (!pays) continue;
            const std::uint32_t change = changes.as<std::uint32_t>()[at];
            codes.as<Code>()[at * width + change / codebook_size] = static_cast<Code>(change % codebook_size);
        }
    });
}

}  // namespace pvtune::cpu
