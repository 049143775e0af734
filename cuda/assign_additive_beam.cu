// The beam search of assign_additive over several codebooks (AQLM, Egiazarian et al. 2024), a warp a group: the code of
// one codebook at a time is replaced in each combination that the beam holds, and the nearest distinct combinations
// stay.
//   |t - sum_m c_m|^2 - |t|^2 = sum_m (|c_m|^2 - 2 <t, c_m>) + sum_{m<n} 2 <c_m, c_n>
// The first sum is made once a group and kept in shared memory; the second is looked up in cross products of all
// codebooks, made once a call. Where these are too many or too few groups use them, a combination's rest
// t - sum_{n != m} c_n is multiplied with codebook m instead. Sums, sweeps and ties (the earlier combination, then the
// lower code) are those of host/backend/cpu/beam_search.cpp.

#include "cuda/assign_additive.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_warps = 4;
constexpr int block_threads = block_warps * warp_size;
constexpr int most_beam = 8;
constexpr int tables_threads = 256;

struct Tables {
    const float* norms;  // [books, size]
    const float* cross;  // [books, books, size, size] 2 <c, c'>
};

template <int group>
__global__ void __launch_bounds__(tables_threads)
    codebook_norms_kernel(float* norms, const float* codebooks, std::int64_t codewords) {
    const std::int64_t i = std::int64_t{blockIdx.x} * tables_threads + threadIdx.x;
    if (i >= codewords) return;
    float codeword[group];
    load_point<group>(codeword, codebooks + i * group);
    norms[i] = squared_norm<group>(codeword);
}

/// A block a row of 2 <c, .>: codeword c of one codebook with all codewords of another.
template <int group>
__global__ void __launch_bounds__(tables_threads)
    cross_products_kernel(float* cross, const float* codebooks, int books, int size) {
    const int from = static_cast<int>(blockIdx.x) / (books * size);
    const int to = static_cast<int>(blockIdx.x) / size % books;
    if (from == to) return;
    float codeword[group];
    load_point<group>(codeword, codebooks + (from * size + static_cast<int>(blockIdx.x) % size) * group);
    for (int k = static_cast<int>(threadIdx.x); k < size; k += tables_threads) {
        float other[group];
        load_point<group>(other, codebooks + (to * size + k) * group);
        float sum = 0;
#pragma unroll
        for (int i = 0; i < group; ++i) sum = fmaf(2 * codeword[i], other[i], sum);
        cross[std::int64_t{blockIdx.x} * size + k] = sum;
    }
}

/// The beam of one warp.
template <int group>
struct Beam {
    std::uint16_t codes[2][most_beam][most_books];
    float rest[most_beam][group];
    float constant[most_beam];
};

/// The least keys that a lane has seen, in order. A key: score, combination (parent), code.
template <int size>
struct Candidates {
    unsigned long long keys[size];

    __device__ Candidates() {
#pragma unroll
        for (int i = 0; i < size; ++i) keys[i] = ~0ULL;
    }
    __device__ void offer(float score, int parent, int code) {
        if (!(score < __uint_as_float(0x7f800000U))) return;
        unsigned long long key = static_cast<unsigned long long>(ordered_bits(score)) << 32 |
                                 static_cast<std::uint32_t>(parent << 16 | code);
        if (key >= keys[size - 1]) return;
#pragma unroll
        for (int i = 0; i < size; ++i) {
            const unsigned long long least = min(key, keys[i]);
            key = max(key, keys[i]);
            keys[i] = least;
        }
    }
    /// Takes the least key of the warp, in every lane; ~0 when there is none left.
    __device__ unsigned long long take() {
        const auto high = static_cast<std::uint32_t>(keys[0] >> 32);
        const std::uint32_t least_high = __reduce_min_sync(whole_warp, high);
        const auto low = high == least_high ? static_cast<std::uint32_t>(keys[0]) : 0xffffffffU;
        const std::uint32_t least_low = __reduce_min_sync(whole_warp, low);
        const unsigned long long least = static_cast<unsigned long long>(least_high) << 32 | least_low;
        if (keys[0] == least) {
#pragma unroll
            for (int i = 0; i + 1 < size; ++i) keys[i] = keys[i + 1];
            keys[size - 1] = ~0ULL;
        }
        return least;
    }
};

/// One lane's combination `own` with codebook m left out: the part of its score that is the same for every code of m.
template <int group, class Code>
__device__ inline void prepare_parent(float& constant, float (&shared_rest)[group], const std::uint16_t* own, int m,
                                      const float (&values)[group], const AdditiveView<Code>& additive,
                                      const Tables& tables, const float* linear) {
    const auto books = static_cast<int>(additive.books);
    const auto size = static_cast<int>(additive.codebook_size);
    if (tables.cross) {
        constant = 0;
        for (int n = 0; n < books; ++n) {
            if (n == m) continue;
            constant += linear[n * size + own[n]];
            for (int o = 0; o < n; ++o) {
                if (o == m) continue;
                constant += tables.cross[std::int64_t{(o * books + n) * size + own[o]} * size + own[n]];
            }
        }
        return;
    }
    float rest[group];
#pragma unroll
    for (int i = 0; i < group; ++i) rest[i] = values[i];
    for (int n = 0; n < books; ++n) {
        if (n != m) subtract_codeword<group>(rest, additive, n, own[n]);
    }
    constant = squared_norm<group>(rest);
#pragma unroll
    for (int i = 0; i < group; ++i) shared_rest[i] = -2 * rest[i];
}

/// Parents that differ in code m alone have the same children: only the first may have them.
__device__ inline bool repeats_earlier(const std::uint16_t (&codes)[most_beam][most_books], int parent, int m,
                                       int books) {
    for (int earlier = 0; earlier < parent; ++earlier) {
        bool same = true;
        for (int n = 0; n < books; ++n) same &= n == m || codes[parent][n] == codes[earlier][n];
        if (same) return true;
    }
    return false;
}

/// Offers every code k = lane, lane + 32, ... of codebook m beside every parent.
template <int group, class Code, int size>
__device__ inline void offer_codes(Candidates<size>& candidates, const Beam<group>& beam,
                                   const std::uint16_t (&codes)[most_beam][most_books], int parents, int m,
                                   const AdditiveView<Code>& additive, const Tables& tables, const float* linear,
                                   int lane) {
    const auto books = static_cast<int>(additive.books);
    const auto codebook_size = static_cast<int>(additive.codebook_size);
    for (int k = lane; k < codebook_size; k += warp_size) {
        if (tables.cross) {
            const float own = linear[m * codebook_size + k];
            for (int parent = 0; parent < parents; ++parent) {
                float score = own;
                for (int n = 0; n < books; ++n) {
                    if (n == m) continue;
                    const int row = (n * books + m) * codebook_size + codes[parent][n];
                    score += tables.cross[std::int64_t{row} * codebook_size + k];
                }
                candidates.offer(beam.constant[parent] + score, parent, k);
            }
            continue;
        }
        float codeword[group];
        load_point<group>(codeword, additive.codebooks + (std::int64_t{m} * codebook_size + k) * group);
        const float norm = tables.norms[m * codebook_size + k];
        for (int parent = 0; parent < parents; ++parent) {
            float score = norm;
#pragma unroll
            for (int i = 0; i < group; ++i) score = fmaf(beam.rest[parent][i], codeword[i], score);
            candidates.offer(beam.constant[parent] + score, parent, k);
        }
    }
}

template <int group, int list, class Code>
__global__ void __launch_bounds__(block_threads, group == 16  ? 4
                                                 : group == 8 ? 5
                                                              : 6)
    beam_assign_kernel(std::uint8_t* changed, const float* target, const std::uint32_t* chosen, std::int64_t count,
                       AdditiveView<Code> additive, Divisor row_groups, Tables tables, int width, int sweeps) {
    __shared__ Beam<group> beams[block_warps];
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    const std::int64_t i = std::int64_t{blockIdx.x} * block_warps + warp;
    if (i >= count) return;  // whole warps, and no barrier of the block follows
    const auto books = static_cast<int>(additive.books);
    const auto size = static_cast<int>(additive.codebook_size);
    const std::int64_t at = chosen[i];
    Beam<group>& beam = beams[warp];
    float values[group];
    load_target<group>(values, target, at, additive, row_groups);
    float* const linear = dynamic_shared<float>() + (tables.cross ? warp * books * size : 0);
    if (tables.cross) {
        for (int k = lane; k < books * size; k += warp_size) {
            float codeword[group];
            load_point<group>(codeword, additive.codebooks + std::int64_t{k} * group);
            float sum = tables.norms[k];
#pragma unroll
            for (int j = 0; j < group; ++j) sum = fmaf(-2 * values[j], codeword[j], sum);
            linear[k] = sum;
        }
    }
    if (lane < books) beam.codes[0][0][lane] = additive.codes[at * books + lane];
    __syncwarp();

    int parents = 1;
    int present = 0;
    const int steps = sweeps * books;
    for (int step = 0; step < steps && parents > 0; ++step) {
        const int m = step % books;
        const auto& codes = beam.codes[present];
        if (lane < parents) {
            float constant = 0;
            prepare_parent<group>(constant, beam.rest[lane], codes[lane], m, values, additive, tables, linear);
            // An infinite score is never offered.
            beam.constant[lane] = repeats_earlier(codes, lane, m, books) ? __uint_as_float(0x7f800000U) : constant;
        }
        __syncwarp();
        Candidates<list> candidates;
        offer_codes<group>(candidates, beam, codes, parents, m, additive, tables, linear, lane);
        const int wanted = step + 1 == steps ? 1 : width;
        int kept = 0;
        for (; kept < wanted; ++kept) {
            const unsigned long long best = candidates.take();
            if (best == ~0ULL) break;
            const int parent = static_cast<int>(best >> 16 & 0xffffU);
            if (lane < books) {
                beam.codes[1 - present][kept][lane] =
                    lane == m ? static_cast<std::uint16_t>(best & 0xffffU) : codes[parent][lane];
            }
        }
        __syncwarp();
        parents = kept;
        present = 1 - present;
    }
    if (lane != 0) return;
    changed[i] = parents > 0 && adopt_codes<group>(values, at, additive, beam.codes[present][0]) ? 1 : 0;
}

template <class Code>
std::size_t norms_bytes(const AdditiveView<Code>& additive) {
    return static_cast<std::size_t>(ceil_divide(additive.books * additive.codebook_size * 4, 256) * 256);
}

}  // namespace

template <class Code>
BeamSearch beam_search_for(const AdditiveView<Code>& additive, std::int64_t count, int beam) {
    // As on the CPU: cross products cost `group` multiplications a pair of codewords, and save as many a code and
    // parent.
    constexpr std::int64_t most_elements = std::int64_t{1} << 22;
    constexpr std::int64_t lanes = 16;
    constexpr int sweeps = 2;
    const std::int64_t size = additive.codebook_size;
    const std::int64_t elements = additive.books * additive.books * size * ceil_divide(size, lanes) * lanes;
    const bool use_cross = elements <= most_elements && count * beam * sweeps >= additive.books * size;
    return {beam, sweeps, use_cross};
}

template <class Code>
std::size_t beam_assign_workspace(const AdditiveView<Code>& additive, const BeamSearch& search) {
    const auto codewords = static_cast<std::size_t>(additive.books * additive.codebook_size);
    return norms_bytes(additive) + (search.use_cross ? codewords * codewords * sizeof(float) : 0);
}

template <class Code>
void beam_assign(const AdditiveView<Code>& additive, std::uint8_t* changed, const float* target,
                 const std::uint32_t* chosen, std::int64_t count, const BeamSearch& search, void* workspace,
                 Stream stream) {
    const std::int64_t codewords = additive.books * additive.codebook_size;
    auto* const norms = static_cast<float*>(workspace);
    float* const cross = search.use_cross ? norms + norms_bytes(additive) / sizeof(float) : nullptr;
    const std::size_t shared_bytes =
        search.use_cross ? block_warps * static_cast<std::size_t>(codewords) * sizeof(float) : 0;
    const auto blocks = static_cast<unsigned>(ceil_divide(count, block_warps));
    with_group(additive.group, [&]<int group>() {
        launch(codebook_norms_kernel<group>, static_cast<unsigned>(ceil_divide(codewords, tables_threads)),
               tables_threads, 0, stream, norms, additive.codebooks, codewords);
        if (cross) {
            launch(cross_products_kernel<group>, static_cast<unsigned>(additive.books * codewords), tables_threads, 0,
                   stream, cross, additive.codebooks, static_cast<int>(additive.books),
                   static_cast<int>(additive.codebook_size));
        }
        const auto search_with = [&]<int list>() {
            launch(beam_assign_kernel<group, list, Code>, blocks, block_threads, shared_bytes, stream, changed, target,
                   chosen, count, additive, Divisor(additive.groups), Tables{norms, cross}, search.beam, search.sweeps);
        };
        if (search.beam == 1) return search_with.template operator()<1>();
        if (search.beam <= 5) return search_with.template operator()<5>();  // the default beam
        search_with.template operator()<most_beam>();
    });
}

template BeamSearch beam_search_for(const AdditiveView<std::uint8_t>&, std::int64_t, int);
template BeamSearch beam_search_for(const AdditiveView<std::uint16_t>&, std::int64_t, int);
template std::size_t beam_assign_workspace(const AdditiveView<std::uint8_t>&, const BeamSearch&);
template std::size_t beam_assign_workspace(const AdditiveView<std::uint16_t>&, const BeamSearch&);
template void beam_assign(const AdditiveView<std::uint8_t>&, std::uint8_t*, const float*, const std::uint32_t*,
                          std::int64_t, const BeamSearch&, void*, Stream);
template void beam_assign(const AdditiveView<std::uint16_t>&, std::uint8_t*, const float*, const std::uint32_t*,
                          std::int64_t, const BeamSearch&, void*, Stream);

}  // namespace pvtune::cuda
