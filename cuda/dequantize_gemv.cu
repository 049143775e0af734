// out = W in (+ bias), W[o, g * group + i] = scales[o] * sum_m codebooks[m, codes[o, g, m], i], W never in memory.
//
// Held against the bandwidth of the codes. A lane takes one group of each of `rows_a_warp` rows: it keeps its piece of
// `in` in registers, and the codes of those rows are loads in flight at once. Small codebooks lie in shared memory in
// the precision of `in`, one line a codeword (additive.cuh): shared memory is what binds, 16 bytes a code of 8 weights
// in bf16. (A table of the dot products of each group of `in` with all codewords would need 4 bytes a code, but those
// reads collide 3 to 4 times, and building the tables costs as much as it saves until a matrix has some 10^4 rows.)
// Large codebooks are read in f32 through L1 and L2. Several warps may share a row; they meet in shared memory, and all
// sums have an order that depends on the shape alone.

#include "cuda/additive.cuh"
#include "cuda/device_limits.h"
#include "cuda/vector.cuh"

#include <algorithm>

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 512;  // one block on a multiprocessor: up to 128 registers a thread
constexpr int block_warps = block_threads / warp_size;
constexpr int most_split = 8;  // warps a row

/// How a codeword of `group` elements of type Entry is read: `pieces` loads of `elements` each.
template <class Entry, int group>
struct Pieces {
    static constexpr int codeword_bytes = group * static_cast<int>(sizeof(Entry));
    static constexpr int count = codeword_bytes > 16 ? codeword_bytes / 16 : 1;
    static constexpr int elements = group / count;
    static constexpr int bytes = codeword_bytes / count;  // 16, or 8 for four bf16
    static constexpr int in_line = line_bytes / bytes;
};

/// Two codebook entries in one word. The upper one is read back as the whole word, so it is rounded to the nearest
/// number that has the lower one's bits at its end: one instruction less for each, no less exact.
__device__ inline std::uint32_t pack_overlapped(float lower, float upper) {
    const std::uint32_t low = to_bf16(lower).bits;
    const std::uint32_t bits = __float_as_uint(upper);
    const std::uint32_t magnitude = (bits & 0x7fffffffU) + 0x8000U;
    const std::uint32_t rounded = magnitude > low ? (magnitude - low) & 0xffff0000U : 0U;
    return (bits & 0x80000000U) | (rounded + low);
}

/// sum += <codeword piece at `from`, values>.
template <class Entry, int elements>
__device__ inline float add_product(float sum, const Entry* from, const float* values) {
    const Packed<Entry, elements> packed = load_packed<elements>(from);
#pragma unroll
    for (int i = 0; i < elements; ++i) {
        if constexpr (sizeof(Entry) == 4) {
            sum = fmaf(__uint_as_float(packed.words[i]), values[i], sum);
        } else {
            const std::uint32_t word = packed.words[i / 2];
            sum = fmaf(__uint_as_float(i % 2 == 0 ? word << 16 : word), values[i], sum);
        }
    }
    return sum;
}

template <class Entry, int group>
__device__ inline void fill_lines(Entry* lines, const float* codebooks, int codewords) {
    using Piece = Pieces<Entry, group>;
    for (int i = static_cast<int>(threadIdx.x); i < codewords * Piece::in_line; i += block_threads) {
        const int at = i / Piece::in_line * group + i % Piece::count * Piece::elements;
        Packed<Entry, Piece::elements> packed;
        if constexpr (sizeof(Entry) == 4) {
            packed = load_packed<Piece::elements>(codebooks + at);
        } else {
            float values[Piece::elements];
            load_values<Piece::elements>(values, codebooks + at);
            for (int j = 0; j < Piece::elements / 2; ++j) {
                packed.words[j] = pack_overlapped(values[2 * j], values[2 * j + 1]);
            }
        }
        store_packed(lines + i * Piece::elements, packed);
    }
    __syncthreads();
}

/// Sums `count` values over the warp; lane l gets that of value l / (32 / count). Fewer shuffles than one by one.
template <int count>
__device__ inline float warp_sums(float (&values)[count], int lane) {
    int offset = warp_size / 2;
#pragma unroll
    for (int half = count / 2; half > 0; half /= 2, offset /= 2) {
        const bool upper = (lane & offset) != 0;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float other = upper ? values[i] : values[i + half];
            const float own = upper ? values[i + half] : values[i];
            values[i] = own + __shfl_xor_sync(whole_warp, other, offset);
        }
    }
    for (; offset > 0; offset /= 2) values[0] += __shfl_xor_sync(whole_warp, values[0], offset);
    return values[0];
}

/// Rows a warp works on at once: as many as leave registers to the codes of two groups of each,
/// and, where these are loaded in f32, to several codewords on their way.
template <class Code, int group, int books, bool in_shared>
inline constexpr int rows_a_warp = books == 0 || group* books > (in_shared ? 32 : 16) ? 2
                                   : group == 16 || books * sizeof(Code) > 2          ? 4
                                                                                      : 8;

template <class T, class Code, int group, int books, bool in_shared>
__global__ void __launch_bounds__(block_threads, 1)
    dequantize_gemv_kernel(T* out, const T* __restrict__ in, const float* __restrict__ bias,
                           const Code* __restrict__ codes, const float* __restrict__ codebooks,
                           const float* __restrict__ scales, std::int64_t rows, int groups, int book_count,
                           int codebook_size, int split) {
    using Entry = std::conditional_t<in_shared, T, float>;
    using Piece = Pieces<Entry, group>;
    constexpr int tile_rows = rows_a_warp<Code, group, books, in_shared>;
    constexpr int stride = in_shared ? line_bytes / static_cast<int>(sizeof(Entry)) : group;  // between codewords
    const int count = books > 0 ? books : book_count;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    const int part = warp % split;
    const int tiles_a_block = block_warps / split;

    // The lanes of a quarter-warp read different pieces of a line at a time; `turn` is this lane's first.
    constexpr int copies = Piece::in_line / Piece::count;
    const int turn = in_shared ? lane % Piece::in_line / copies : 0;
    const Entry* table;
    if constexpr (in_shared) {
        Entry* lines = dynamic_shared<Entry>();
        fill_lines<Entry, group>(lines, codebooks, count * codebook_size);
        table = lines + lane % copies * group;
    } else {
        table = codebooks;
    }
    __shared__ float partials[block_warps][tile_rows];

    const std::int64_t row_tiles = ceil_divide(rows, tile_rows);
    for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * tiles_a_block; first < row_tiles;
         first += static_cast<std::int64_t>(gridDim.x) * tiles_a_block) {
        const std::int64_t row = (first + warp / split) * tile_rows;
        float sums[tile_rows] = {};
        // Rows past the end are summed like the last one and dropped.
        const Code* row_codes = codes + min(row, rows - 1) * groups * count;
        const int last = static_cast<int>(min(rows - 1 - row, static_cast<std::int64_t>(tile_rows)));
        GroupCodes<Code, books> present[tile_rows];
        const auto load = [&](GroupCodes<Code, books>(&into)[tile_rows], int g) {
            if (g >= groups) return;
#pragma unroll
            for (int r = 0; r < tile_rows; ++r) into[r].load(row_codes + (max(min(r, last), 0) * groups + g) * count);
        };
        load(present, part * warp_size + lane);
        for (int g = part * warp_size + lane; g < groups; g += split * warp_size) {
            GroupCodes<Code, books> next[tile_rows];
            load(next, g + split * warp_size);
            float values[group];
#pragma unroll
            for (int j = 0; j < Piece::count; ++j) {
                const int at = (j + turn) % Piece::count * Piece::elements;
                float some[Piece::elements];
                load_values<Piece::elements>(some, in + static_cast<std::int64_t>(g) * group + at);
#pragma unroll
                for (int i = 0; i < Piece::elements; ++i) values[j * Piece::elements + i] = some[i];
            }
#pragma unroll
            for (int r = 0; r < tile_rows; ++r) {
#pragma unroll
                for (int m = 0; m < count; ++m) {
                    const Entry* codeword = table + (m * codebook_size + static_cast<int>(present[r][m])) * stride;
#pragma unroll
                    for (int j = 0; j < Piece::count; ++j) {
                        sums[r] = add_product<Entry, Piece::elements>(
                            sums[r], codeword + (j + turn) % Piece::count * Piece::elements,
                            values + j * Piece::elements);
                    }
                }
            }
#pragma unroll
            for (int r = 0; r < tile_rows; ++r) present[r] = next[r];
        }
        constexpr int lanes_a_row = warp_size / tile_rows;
        const float sum = warp_sums(sums, lane);
        if (lane % lanes_a_row == 0) partials[warp][lane / lanes_a_row] = sum;
        __syncthreads();
        const int tile = static_cast<int>(threadIdx.x) / tile_rows;
        const int r = static_cast<int>(threadIdx.x) % tile_rows;
        const std::int64_t own = (first + tile) * tile_rows + r;
        if (tile < tiles_a_block && own < rows) {
            float total = 0;
            for (int i = 0; i < split; ++i) total += partials[tile * split + i][r];
            total *= scales[own];
            out[own] = from_float<T>(bias ? total + bias[own] : total);
        }
        __syncthreads();
    }
}

}  // namespace

template <class T, class Code>
void dequantize_gemv(T* out, const T* in, const float* bias, const AdditiveView<Code>& additive, Stream stream) {
    check_additive(additive);
    if (additive.rows == 0) return;
    const std::int64_t shared_bytes = additive.books * additive.codebook_size * line_bytes;
    constexpr std::int64_t kept_for_sums = 2048;
    const bool in_shared = shared_bytes <= most_shared_bytes() - kept_for_sums;
    int split = 1;
    while (split < most_split && 2 * split * warp_size <= additive.groups) split *= 2;
    const auto start = [&]<int group, int books, bool shared>() {
        const std::int64_t tiles = ceil_divide(additive.rows, rows_a_warp<Code, group, books, shared>);
        const std::int64_t blocks = std::min<std::int64_t>(ceil_divide(tiles * split, block_warps), multiprocessors());
        launch(dequantize_gemv_kernel<T, Code, group, books, shared>, static_cast<unsigned>(blocks), block_threads,
               shared ? static_cast<std::size_t>(shared_bytes) : 0, stream, out, in, bias, additive.codes,
               additive.codebooks, additive.scales, additive.rows, static_cast<int>(additive.groups),
               static_cast<int>(additive.books), static_cast<int>(additive.codebook_size), split);
    };
    with_group(additive.group, [&]<int group>() {
        with_books(additive.books, [&]<int books>() {
            if (in_shared) return start.template operator()<group, books, true>();
            start.template operator()<group, books, false>();
        });
    });
}

template void dequantize_gemv(float*, const float*, const float*, const AdditiveView<std::uint8_t>&, Stream);
template void dequantize_gemv(float*, const float*, const float*, const AdditiveView<std::uint16_t>&, Stream);
template void dequantize_gemv(bf16*, const bf16*, const float*, const AdditiveView<std::uint8_t>&, Stream);
template void dequantize_gemv(bf16*, const bf16*, const float*, const AdditiveView<std::uint16_t>&, Stream);

}  // namespace pvtune::cuda
