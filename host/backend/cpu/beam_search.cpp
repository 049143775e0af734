// |t - sum_m c_m|^2 - |t|^2 = sum_m (|c_m|^2 - 2 <t, c_m>) + sum_{m<n} 2 <c_m, c_n>. The first sum is one product of
// the target with each codebook, made once a group; the second is looked up in the cross products, or (where there are
// no cross products) a candidate's rest t - sum_{n != m} c_n is multiplied with codebook m.
#include "host/backend/cpu/beam_search.h"

#include "host/backend/cpu/chunks.h"
#include "host/backend/cpu/score_lanes.h"

#include <cmath>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace pvtune::cpu {
namespace {

/// One codebook: the nearest codewords of `tile` targets at a time, so that a large codebook is read once a tile.
template <int group, int tile>
void nearest_codewords(const CodebookTables& tables, const float* targets, std::uint16_t* codes) {
    alignas(64) float best[tile][lanes];
    alignas(64) std::int32_t where[tile][lanes];
    float doubled[tile][group];
    for (int t = 0; t < tile; ++t) {
        for (int i = 0; i < group; ++i) doubled[t][i] = -2 * targets[t * group + i];
        for (int lane = 0; lane < lanes; ++lane) best[t][lane] = infinity;
        for (int lane = 0; lane < lanes; ++lane) where[t][lane] = -1;
    }
    const float* norms = tables.norms.data();
    const float* columns = tables.transposed.data();
#ifdef __AVX512F__
    __m512 nearest[tile];
    __m512i at[tile];
    for (int t = 0; t < tile; ++t) nearest[t] = _mm512_set1_ps(infinity);
    for (int t = 0; t < tile; ++t) at[t] = _mm512_set1_epi32(-1);
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (std::int64_t k = 0; k < tables.stride; k += lanes) {
        __m512 sums[tile];
        for (int t = 0; t < tile; ++t) sums[t] = _mm512_loadu_ps(norms + k);
        for (int i = 0; i < group; ++i) {
            const __m512 column = _mm512_loadu_ps(columns + i * tables.stride + k);
            for (int t = 0; t < tile; ++t) sums[t] = _mm512_fmadd_ps(_mm512_set1_ps(doubled[t][i]), column, sums[t]);
        }
        for (int t = 0; t < tile; ++t) {
            const __mmask16 nearer = _mm512_cmp_ps_mask(sums[t], nearest[t], _CMP_LT_OQ);
            nearest[t] = _mm512_mask_mov_ps(nearest[t], nearer, sums[t]);
            at[t] = _mm512_mask_mov_epi32(at[t], nearer, index);
        }
        index = _mm512_add_epi32(index, _mm512_set1_epi32(lanes));
    }
    for (int t = 0; t < tile; ++t) _mm512_store_ps(best[t], nearest[t]);
    for (int t = 0; t < tile; ++t) _mm512_store_si512(where[t], at[t]);
#else
    for (std::int64_t k = 0; k < tables.stride; k += lanes) {
        for (int t = 0; t < tile; ++t) {
            float sums[lanes];
            for (int lane = 0; lane < lanes; ++lane) sums[lane] = norms[k + lane];
            for (int i = 0; i < group; ++i) {
                const float* column = columns + i * tables.stride + k;
                for (int lane = 0; lane < lanes; ++lane) sums[lane] += doubled[t][i] * column[lane];
            }
            for (int lane = 0; lane < lanes; ++lane) {
                const bool nearer = sums[lane] < best[t][lane];
                best[t][lane] = nearer ? sums[lane] : best[t][lane];
                where[t][lane] = nearer ? static_cast<std::int32_t>(k) + lane : where[t][lane];
            }
        }
    }
#endif
    for (int t = 0; t < tile; ++t) {
        float least = infinity;
        std::int32_t code = -1;
        for (int lane = 0; lane < lanes; ++lane) {
            const bool nearer = best[t][lane] < least || (best[t][lane] == least && where[t][lane] < code);
            if (where[t][lane] < 0 || !nearer) continue;
            least = best[t][lane];
            code = where[t][lane];
        }
        if (code >= 0) codes[t] = static_cast<std::uint16_t>(code);
    }
}

/// A combination of codes that the beam holds.
struct Candidate {
    float score = infinity;
    std::int32_t parent = 0;
    std::int32_t code = 0;
};

/// What one thread needs for its searches.
struct Scratch {
    std::vector<float> linear;          ///< [books, stride] |c|^2 - 2 <t, c>
    std::vector<float> scores;          ///< [stride]
    std::vector<Candidate> candidates;  ///< [beam], nearest first
    std::vector<std::uint16_t> beam;    ///< [beam, books]
    std::vector<std::uint16_t> next;    ///< [beam, books]
    std::vector<std::int32_t> found;    ///< [stride + 16] codes that are good enough to be looked at
    int kept = 0;                       ///< candidates in use

    Scratch(const CodebookTables& tables, int width)
        : linear(static_cast<std::size_t>(tables.books * tables.stride)),
          scores(static_cast<std::size_t>(tables.stride)),
          candidates(static_cast<std::size_t>(width)),
          beam(static_cast<std::size_t>(width * tables.books)),
          next(beam.size()),
          found(static_cast<std::size_t>(tables.stride + lanes)) {}
};

/// scores[k] = base[k] + sum_i factors[i] * columns[i, k].
template <int group>
void multiply_codebook(float* __restrict scores, const float* __restrict base, const float* __restrict columns,
                       const float* __restrict factors, std::int64_t stride) {
#ifdef __AVX512F__
    __m512 factor[group];
    for (int i = 0; i < group; ++i) factor[i] = _mm512_set1_ps(factors[i]);
    std::int64_t k = 0;
    constexpr int tile = 4;  // sums in flight, to hide the latency of the additions
    for (; k + tile * lanes <= stride; k += tile * lanes) {
        __m512 sums[tile];
        for (int t = 0; t < tile; ++t) sums[t] = _mm512_loadu_ps(base + k + t * lanes);
        for (int i = 0; i < group; ++i) {
            for (int t = 0; t < tile; ++t) {
                sums[t] = _mm512_fmadd_ps(factor[i], _mm512_loadu_ps(columns + i * stride + k + t * lanes), sums[t]);
            }
        }
        for (int t = 0; t < tile; ++t) _mm512_storeu_ps(scores + k + t * lanes, sums[t]);
    }
    for (; k < stride; k += lanes) {
        __m512 sum = _mm512_loadu_ps(base + k);
        for (int i = 0; i < group; ++i) {
            sum = _mm512_fmadd_ps(factor[i], _mm512_loadu_ps(columns + i * stride + k), sum);
        }
        _mm512_storeu_ps(scores + k, sum);
    }
#else
#pragma omp simd
    for (std::int64_t k = 0; k < stride; ++k) {
        float sum = base[k];
        for (int i = 0; i < group; ++i) sum += factors[i] * columns[i * stride + k];
        scores[k] = sum;
    }
#endif
}

/// Offers constant + scores[k] for every code k to the `width` best candidates. Equal scores: the earlier offer first.
inline void offer(Scratch& scratch, int width, float constant, std::int32_t parent, const float* scores,
                  std::int64_t stride) {
    Candidate* const list = scratch.candidates.data();
    int kept = scratch.kept;
    const float limit = kept == width ? list[width - 1].score - constant : limit_for(scores, stride, width);
    std::int32_t* const found = scratch.found.data();
    const std::int64_t number = find_below(scores, stride, limit, found);
    for (std::int64_t i = 0; i < number; ++i) {
        const float score = constant + scores[found[i]];
        if (kept == width && !(score < list[width - 1].score)) continue;
        int at = kept < width ? kept++ : width - 1;
        for (; at > 0 && score < list[at - 1].score; --at) list[at] = list[at - 1];
        list[at] = {score, parent, found[i]};
    }
    scratch.kept = kept;
}

/// The least of constant + first[k] + second[k] over everything offered; lane by lane, without branches.
class Least {
public:
    void offer(float constant, std::int32_t parent, const float* first, const float* second, std::int64_t stride) {
        const std::int32_t tag = parent << 16;
#ifdef __AVX512F__
        const __m512 constants = _mm512_set1_ps(constant);
        __m512 best = _mm512_load_ps(best_);
        __m512i where = _mm512_load_si512(where_);
        __m512i index = _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                         _mm512_set1_epi32(tag));
        for (std::int64_t k = 0; k < stride; k += lanes) {
            __m512 sum = _mm512_loadu_ps(first + k);
            if (second) sum = _mm512_add_ps(sum, _mm512_loadu_ps(second + k));
            sum = _mm512_add_ps(sum, constants);
            const __mmask16 nearer = _mm512_cmp_ps_mask(sum, best, _CMP_LT_OQ);
            best = _mm512_mask_mov_ps(best, nearer, sum);
            where = _mm512_mask_mov_epi32(where, nearer, index);
            index = _mm512_add_epi32(index, _mm512_set1_epi32(lanes));
        }
        _mm512_store_ps(best_, best);
        _mm512_store_si512(where_, where);
#else
        for (std::int64_t k = 0; k < stride; k += lanes) {
            for (int i = 0; i < lanes; ++i) {
                const float sum = (second ? first[k + i] + second[k + i] : first[k + i]) + constant;
                const bool nearer = sum < best_[i];
                best_[i] = nearer ? sum : best_[i];
                where_[i] = nearer ? tag + static_cast<std::int32_t>(k) + i : where_[i];
            }
        }
#endif
    }
    /// False when nothing finite was offered. Equal scores: the earlier parent, then the lower code.
    bool take(Candidate& candidate) const {
        float least = best_[0];
        for (int i = 1; i < lanes; ++i) least = best_[i] < least ? best_[i] : least;
        std::uint32_t where = static_cast<std::uint32_t>(-1);  // nothing was offered to lanes that hold it
        for (int i = 0; i < lanes; ++i) {
            const auto own = static_cast<std::uint32_t>(where_[i]);
            where = best_[i] == least && own < where ? own : where;
        }
        candidate = {least, static_cast<std::int32_t>(where >> 16), static_cast<std::int32_t>(where & 0xffffU)};
        return where != static_cast<std::uint32_t>(-1);
    }
    Least() {
        std::fill_n(best_, lanes, infinity);
        std::fill_n(where_, lanes, -1);
    }

private:
    alignas(64) float best_[lanes];
    alignas(64) std::int32_t where_[lanes];
};

/// The scores of every code of codebook m beside the other codes of `codes`: constant + first[k] + second[k] (second
/// may be null).
struct Replacements {
    float constant = 0;
    const float* first = nullptr;
    const float* second = nullptr;
};

template <int group>
Replacements score_replacements(const CodebookTables& tables, const float* target, const std::uint16_t* codes,
                                std::int64_t m, Scratch& scratch) {
    const std::int64_t stride = tables.stride;
    const std::int64_t size = tables.size;
    const std::int64_t books = tables.books;
    float* scores = scratch.scores.data();
    if (tables.cross.empty()) {
        // |t - rest - c|^2 = |t - rest|^2 + |c|^2 - 2 <t - rest, c>; the constant is compared between parents.
        float rest[group];
        for (int i = 0; i < group; ++i) rest[i] = target[i];
        for (std::int64_t n = 0; n < books; ++n) {
            if (n == m) continue;
            const float* codeword = tables.codewords.data() + (n * size + codes[n]) * group;
            for (int i = 0; i < group; ++i) rest[i] -= codeword[i];
        }
        float square = 0;
        for (int i = 0; i < group; ++i) square += rest[i] * rest[i];
        for (int i = 0; i < group; ++i) rest[i] *= -2;
        multiply_codebook<group>(scores, tables.norms.data() + m * stride,
                                 tables.transposed.data() + m * group * stride, rest, stride);
        return {square, scores, nullptr};
    }
    const auto cross_row = [&](std::int64_t from, std::int64_t to) {
        return tables.cross.data() + ((from * books + to) * size + codes[from]) * stride;
    };
    Replacements result{0, scratch.linear.data() + m * stride, nullptr};
    for (std::int64_t n = 0; n < books; ++n) {
        if (n == m) continue;
        if (result.second) {
#pragma omp simd
            for (std::int64_t k = 0; k < stride; ++k) scores[k] = result.first[k] + result.second[k];
            result.first = scores;
        }
        result.second = cross_row(n, m);
        result.constant += scratch.linear[static_cast<std::size_t>(n * stride + codes[n])];
        for (std::int64_t o = 0; o < n; ++o) {
            if (o != m) result.constant += cross_row(o, n)[codes[n]];
        }
    }
    return result;
}

/// All of a search of one group but the comparison with the codes it had.
template <int group>
void beam_search(const CodebookTables& tables, const float* target, std::uint16_t* codes, const BeamSettings& settings,
                 Scratch& scratch) {
    const std::int64_t books = tables.books;
    const std::int64_t stride = tables.stride;
    if (!tables.cross.empty()) {
        float doubled[group];
        for (int i = 0; i < group; ++i) doubled[i] = -2 * target[i];
        for (std::int64_t m = 0; m < books; ++m) {
            multiply_codebook<group>(scratch.linear.data() + m * stride, tables.norms.data() + m * stride,
                                     tables.transposed.data() + m * group * stride, doubled, stride);
        }
    }
    std::copy_n(codes, books, scratch.beam.begin());
    int parents = 1;
    const std::int64_t steps = settings.sweeps * books;
    for (std::int64_t step = 0; step < steps; ++step) {
        const std::int64_t m = step % books;
        const int width = step + 1 == steps ? 1 : settings.beam;
        scratch.kept = 0;
        Least least;
        for (std::int32_t parent = 0; parent < parents; ++parent) {
            const std::uint16_t* own = scratch.beam.data() + parent * books;
            // Parents that differ in code m alone have the same children: only the first may have them.
            bool repeated = false;
            for (std::int32_t earlier = 0; earlier < parent && !repeated; ++earlier) {
                const std::uint16_t* other = scratch.beam.data() + earlier * books;
                repeated = true;
                for (std::int64_t n = 0; n < books; ++n) repeated &= n == m || own[n] == other[n];
            }
            if (repeated) continue;
            const Replacements scores = score_replacements<group>(tables, target, own, m, scratch);
            if (width == 1) {
                least.offer(scores.constant, parent, scores.first, scores.second, stride);
                continue;
            }
            if (scores.second) {
                float* sums = scratch.scores.data();
#pragma omp simd
                for (std::int64_t k = 0; k < stride; ++k) sums[k] = scores.first[k] + scores.second[k];
            }
            offer(scratch, width, scores.constant, parent, scratch.scores.data(), stride);
        }
        if (width == 1) scratch.kept = least.take(scratch.candidates[0]) ? 1 : 0;
        if (scratch.kept == 0) return;  // nothing is finite
        for (int i = 0; i < scratch.kept; ++i) {
            const Candidate& candidate = scratch.candidates[static_cast<std::size_t>(i)];
            std::copy_n(scratch.beam.begin() + candidate.parent * books, books, scratch.next.begin() + i * books);
            scratch.next[static_cast<std::size_t>(i * books + m)] = static_cast<std::uint16_t>(candidate.code);
        }
        scratch.beam.swap(scratch.next);
        parents = scratch.kept;
    }
    std::copy_n(scratch.beam.begin(), books, codes);
}

template <int group>
float distance(const CodebookTables& tables, const float* target, const std::uint16_t* codes) {
    float rest[group];
    for (int i = 0; i < group; ++i) rest[i] = target[i];
    for (std::int64_t m = 0; m < tables.books; ++m) {
        const float* codeword = tables.codewords.data() + (m * tables.size + codes[m]) * group;
        for (int i = 0; i < group; ++i) rest[i] -= codeword[i];
    }
    float sum = 0;
    for (int i = 0; i < group; ++i) sum += rest[i] * rest[i];
    return sum;
}

template <int group>
void search_block(const CodebookTables& tables, const float* targets, std::uint16_t* codes, std::int64_t first,
                  std::int64_t last, const BeamSettings& settings, Scratch& scratch) {
    constexpr std::int64_t tile = 4;
    const std::int64_t books = tables.books;
    std::vector<std::uint16_t> found(codes + first * books, codes + last * books);
    if (books == 1) {
        std::int64_t g = first;
        for (; g + tile <= last; g += tile) {
            nearest_codewords<group, tile>(tables, targets + g * group, found.data() + (g - first));
        }
        for (; g < last; ++g) nearest_codewords<group, 1>(tables, targets + g * group, found.data() + (g - first));
    } else {
        for (std::int64_t g = first; g < last; ++g) {
            beam_search<group>(tables, targets + g * group, found.data() + (g - first) * books, settings, scratch);
        }
    }
    // The sums above round differently from the distance itself: what counts is the distance.
    for (std::int64_t g = first; g < last; ++g) {
        std::uint16_t* present = codes + g * books;
        const std::uint16_t* other = found.data() + (g - first) * books;
        const float before = distance<group>(tables, targets + g * group, present);
        const float after = distance<group>(tables, targets + g * group, other);
        const bool lower = std::lexicographical_compare(other, other + books, present, present + books);
        if (after < before || (after == before && lower)) std::copy_n(other, books, present);
    }
}

}  // namespace

CodebookTables make_codebook_tables(const float* codebooks, std::int64_t books, std::int64_t size, std::int64_t group,
                                    std::int64_t groups, const BeamSettings& settings) {
    CodebookTables tables;
    set_codebook_tables(tables, codebooks, books, size, group, groups, settings);
    return tables;
}

void set_codebook_tables(CodebookTables& tables, const float* codebooks, std::int64_t books, std::int64_t size,
                         std::int64_t group, std::int64_t groups, const BeamSettings& settings) {
    tables.books = books;
    tables.size = size;
    tables.stride = chunk_count(size, lanes) * lanes;
    tables.group = group;
    const std::int64_t stride = tables.stride;
    tables.codewords.assign(codebooks, codebooks + books * size * group);
    tables.transposed.resize(static_cast<std::size_t>(books * group * stride));
    tables.norms.assign(static_cast<std::size_t>(books * stride), infinity);
    for (std::int64_t m = 0; m < books; ++m) {
        for (std::int64_t k = 0; k < size; ++k) {
            const float* codeword = codebooks + (m * size + k) * group;
            float norm = 0;
            for (std::int64_t i = 0; i < group; ++i) {
                norm += codeword[i] * codeword[i];
                tables.transposed[static_cast<std::size_t>((m * group + i) * stride + k)] = codeword[i];
            }
            tables.norms[static_cast<std::size_t>(m * stride + k)] = norm;
        }
    }
    // Cross products save `group` multiplications a code and parent and cost as many a pair of codewords.
    constexpr std::int64_t most_elements = std::int64_t{1} << 22;
    const std::int64_t elements = books * books * size * stride;
    const std::int64_t parents = groups * settings.beam * settings.sweeps;
    if (books == 1 || elements > most_elements || parents < books * size) return tables.cross.clear();
    tables.cross.resize(static_cast<std::size_t>(elements));
    with_group(group, [&]<int width>() {
        for_chunks(books * books * size, 64, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
                const std::int64_t m = row / (books * size);
                const std::int64_t n = row / size % books;
                if (m == n) continue;  // never looked at
                const float* codeword = codebooks + (m * size + row % size) * width;
                float doubled[width];
                for (int i = 0; i < width; ++i) doubled[i] = 2 * codeword[i];
                const float* columns = tables.transposed.data() + n * width * stride;
                float* __restrict out = tables.cross.data() + row * stride;
#pragma omp simd
                for (std::int64_t k = 0; k < stride; ++k) {
                    float sum = 0;
                    for (int i = 0; i < width; ++i) sum += doubled[i] * columns[i * stride + k];
                    out[k] = sum;
                }
            }
        });
    });
}

void search_codes(const CodebookTables& tables, const float* targets, std::uint16_t* codes, std::int64_t count,
                  const BeamSettings& settings) {
    constexpr std::int64_t groups_per_block = 128;
    const std::int64_t blocks = chunk_count(count, groups_per_block);
    with_group(tables.group, [&]<int group>() {
#pragma omp parallel if (blocks > 1)
        {
            Scratch scratch(tables, std::max(1, settings.beam));
#pragma omp for schedule(dynamic)
            for (std::int64_t block = 0; block < blocks; ++block) {
                search_block<group>(tables, targets, codes, block * groups_per_block,
                                    std::min(count, (block + 1) * groups_per_block), settings, scratch);
            }
        }
    });
}

float code_distance(const CodebookTables& tables, const float* target, const std::uint16_t* codes) {
    float result = 0;
    with_group(tables.group, [&]<int group>() { result = distance<group>(tables, target, codes); });
    return result;
}

}  // namespace pvtune::cpu
