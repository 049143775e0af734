// Causal attention, out = softmax(q k^T / sqrt(head_dim)) v, without a length x length tensor, after FlashAttention-2
// (Dao, 2023). A block keeps a tile of queries and meets its keys a tile at a time, the next one on its way meanwhile;
// softmax is online: a row's sum and result are relative to a running maximum. bf16 on tensor cores; f32, and rows
// that cannot be read 16 bytes at a time, in attention_plain_forward.cu.

#include "cuda/attention_plain.h"
#include "cuda/attention_tiles.cuh"
#include "cuda/fast_math.cuh"

namespace pvtune::cuda {

namespace {

struct ForwardArguments {
    bf16* out;
    float* log_sum_exp;
    const bf16 *q, *k, *v;
    int sequences, length, heads, kv_heads, head_dim, window;
    float scale;  ///< of scores; capped: of what they are of their cap
    BlockOrder order;
    float to_share;  ///< share_factor()
};

/// A block of `warps` warps works on `queries` queries and two stages of `keys` keys and values. With 32 queries a warp
/// each fragment of keys or values serves two products, which halves the reads of shared memory.
template <int width, int queries, int keys, int warps, bool queries_in_registers, int blocks_a_multiprocessor>
struct ForwardTiles {
    static constexpr int depth = width;
    static constexpr int query_rows = queries, key_rows = keys;
    static constexpr int threads = warps * warp_size;
    static constexpr int warp_rows = queries / warps;
    static constexpr bool keep_queries = queries_in_registers;
    static constexpr int blocks = blocks_a_multiprocessor;
    static constexpr int stage_elements = 2 * keys * width;
    static constexpr int shared_bytes = (queries * width + 2 * stage_elements) * static_cast<int>(sizeof(bf16));
    static_assert(warp_rows % 16 == 0 && keys % 16 == 0);
    static_assert(shared_bytes <= 99 * 1024, "more than the smallest device of sm_80 and newer lets a block have");
};

/// The first of the warp's rows in the tile of queries.
template <class Tiles>
__device__ inline int warp_first_row() {
    return static_cast<int>(kept_in_loop(threadIdx.x) / warp_size) * Tiles::warp_rows;
}

/// What one warp knows of its rows: thread t has rows t / 4 and t / 4 + 8 of each 16, and in every 8 columns two.
template <class Tiles>
struct WarpRows {
    static constexpr int bands = Tiles::warp_rows / 16;
    float out[bands][Tiles::depth / 8][4] = {};
    float largest[bands][2];   ///< reference of the exponentials: the largest score so far, or a little less
    float sum[bands][2] = {};  ///< of this thread's columns
};

/// A reference stays while no score exceeds it by more: weights then reach 2^8, and `out` need not be rescaled.
constexpr float reference_slack = 8.0F;

template <class Tiles>
using Scores = float[Tiles::warp_rows / 16][Tiles::key_rows / 8][4];

/// Scores become what they are of their cap.
template <class Tiles>
__device__ inline void cap_scores(Scores<Tiles>& scores, float to_share) {
#pragma unroll
    for (int band = 0; band < Tiles::warp_rows / 16; ++band) {
#pragma unroll
        for (int n = 0; n < Tiles::key_rows / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[band][n][e] = capped_share(scores[band][n][e] * to_share);
        }
    }
}

/// Scores outside the window [query - window + 1, query] become -inf.
template <class Tiles>
__device__ inline void mask_scores(Scores<Tiles>& scores, int first_query, int first_key, int window) {
    const int lane = static_cast<int>(kept_in_loop(threadIdx.x) % warp_size);
    const int distance = first_query + lane / 4 - first_key - lane % 4 * 2;
#pragma unroll
    for (int band = 0; band < Tiles::warp_rows / 16; ++band) {
#pragma unroll
        for (int n = 0; n < Tiles::key_rows / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int back = distance + band * 16 + e / 2 * 8 - n * 8 - e % 2;
                if (static_cast<unsigned>(back) >= static_cast<unsigned>(window)) scores[band][n][e] = -INFINITY;
            }
        }
    }
}

/// Turns scores into weights 2^(factor (score - reference)) and updates references, sums and what has been summed.
template <class Tiles>
__device__ inline void online_softmax(WarpRows<Tiles>& rows, Scores<Tiles>& scores, float factor) {
    float largest[WarpRows<Tiles>::bands][2];
    bool grown = false;
#pragma unroll
    for (int band = 0; band < WarpRows<Tiles>::bands; ++band) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = rows.largest[band][half];
#pragma unroll
            for (int n = 0; n < Tiles::key_rows / 8; ++n) {
                top = fmaxf(top, fmaxf(scores[band][n][2 * half], scores[band][n][2 * half + 1]));
            }
            top = fmaxf(top, __shfl_xor_sync(whole_warp, top, 1));
            top = fmaxf(top, __shfl_xor_sync(whole_warp, top, 2));
            largest[band][half] = top;
            grown = grown || (top - rows.largest[band][half]) * factor > reference_slack;
        }
    }
    if (__any_sync(whole_warp, grown) != 0) {
#pragma unroll
        for (int band = 0; band < WarpRows<Tiles>::bands; ++band) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float shrink = exp2_fast((rows.largest[band][half] - largest[band][half]) * factor);
                rows.largest[band][half] = largest[band][half];
                rows.sum[band][half] *= shrink;
#pragma unroll
                for (int n = 0; n < Tiles::depth / 8; ++n) {
                    rows.out[band][n][2 * half] *= shrink;
                    rows.out[band][n][2 * half + 1] *= shrink;
                }
            }
        }
    }
#pragma unroll
    for (int band = 0; band < WarpRows<Tiles>::bands; ++band) {
        const float shift[2] = {-rows.largest[band][0] * factor, -rows.largest[band][1] * factor};
#pragma unroll
        for (int n = 0; n < Tiles::key_rows / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float weight = exp2_fast(fmaf(scores[band][n][e], factor, shift[e / 2]));
                rows.sum[band][e / 2] += weight;
                scores[band][n][e] = weight;
            }
        }
    }
}

/// The warp's queries: fragments that stay in registers for the whole block, or read again for every tile of keys.
template <class Tiles>
struct WarpQueries {
    static constexpr int bands = Tiles::warp_rows / 16;
    SharedTile<Tiles::depth> tile;
    std::uint32_t kept[Tiles::keep_queries ? bands : 1][Tiles::keep_queries ? Tiles::depth / 16 : 1][4];

    __device__ void load(std::uint32_t (&fragment)[4], int band, int j) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) fragment[i] = kept[band][j][i];
    }
    __device__ explicit WarpQueries(SharedTile<Tiles::depth> from) : tile(from) {
        if constexpr (Tiles::keep_queries) {
            const Operand<Tiles::depth, true, false> operand(tile, warp_first_row<Tiles>(), 0);
#pragma unroll
            for (int band = 0; band < bands; ++band) {
#pragma unroll
                for (int j = 0; j < Tiles::depth / 16; ++j) operand.load(kept[band][j], band, j);
            }
        }
    }
};

/// scores += queries * keys.
template <class Tiles>
__device__ inline void multiply_keys(Scores<Tiles>& scores, const WarpQueries<Tiles>& queries,
                                     SharedTile<Tiles::depth> keys) {
    const Operand<Tiles::depth, false, false> right(keys, 0, 0);
    if constexpr (Tiles::keep_queries) {
        multiply_tiles<Tiles::depth>(scores, queries, right);
    } else {
        const Operand<Tiles::depth, true, false> left(queries.tile, warp_first_row<Tiles>(), 0);
        multiply_tiles<Tiles::depth>(scores, left, right);
    }
}

/// out += weights * values: the accumulators of two 16 x 8 products are the left operand of the next one.
template <class Tiles>
__device__ inline void add_values(WarpRows<Tiles>& rows, const Scores<Tiles>& weights,
                                  SharedTile<Tiles::depth> values) {
    const Operand<Tiles::depth, false, true> right(values, 0, 0);
    constexpr int bands = Tiles::warp_rows / 16;
#pragma unroll
    for (int i = 0; i < Tiles::key_rows / 16; ++i) {
        std::uint32_t left[bands][4];
#pragma unroll
        for (int band = 0; band < bands; ++band) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const auto& pair = weights[band][2 * i + part / 2];
                left[band][part] = pack_bf16(pair[part % 2 * 2], pair[part % 2 * 2 + 1]);
            }
        }
#pragma unroll
        for (int j = 0; j < Tiles::depth / 16; ++j) {
            std::uint32_t b[4];
            right.load(b, j, i);
#pragma unroll
            for (int band = 0; band < bands; ++band) {
                multiply_square(rows.out[band][2 * j], rows.out[band][2 * j + 1], left[band], b);
            }
        }
    }
}

/// The block's part of the tensors.
struct QueryBlock {
    int first;                         ///< query of the sequence
    int key_row;                       ///< of the sequence's first key among the rows of k and v, head by head
    std::int64_t queries, statistics;  ///< where the block begins in q and out, and in log_sum_exp
};

template <class Tiles>
__device__ inline QueryBlock query_block(const ForwardArguments& a) {
    const HeadPlace place = place_of(a.order, static_cast<int>(kept_in_loop(blockIdx.x)), a.heads);
    const int first = (a.order.blocks_a_head - 1 - place.block) * Tiles::query_rows;
    const std::int64_t first_row = static_cast<std::int64_t>(place.sequence) * a.length;
    return {first, static_cast<int>(first_row) * a.kv_heads + place.head / (a.heads / a.kv_heads),
            ((first_row + first) * a.heads + place.head) * a.head_dim,
            (static_cast<std::int64_t>(place.head) * a.sequences + place.sequence) * a.length + first};
}

/// Results and log-sum-exps of the warp's rows; results go through the warp's own rows of the query tile.
template <class Tiles>
__device__ inline void store_rows(WarpRows<Tiles>& rows, SharedTile<Tiles::depth> tile, const ForwardArguments& a) {
    const QueryBlock block = query_block<Tiles>(a);  // again: kept through the loop it would take registers from it
    constexpr int chunks = Tiles::depth / chunk;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp_row = warp_first_row<Tiles>();
    __syncwarp();
#pragma unroll
    for (int band = 0; band < WarpRows<Tiles>::bands; ++band) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = rows.sum[band][half];
            sum += __shfl_xor_sync(whole_warp, sum, 1);
            sum += __shfl_xor_sync(whole_warp, sum, 2);
            const float inverse = 1.0F / sum;
            const int row = warp_row + band * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int n = 0; n < chunks; ++n) {
                auto* to = reinterpret_cast<std::uint32_t*>(tile.at(row, n)) + lane % 4;
                *to = pack_bf16(rows.out[band][n][2 * half] * inverse, rows.out[band][n][2 * half + 1] * inverse);
            }
            if (lane % 4 == 0 && block.first + row < a.length) {
                a.log_sum_exp[block.statistics + row] = rows.largest[band][half] * a.scale + logf(sum);
            }
        }
    }
    __syncwarp();
    for (int i = lane; i < Tiles::warp_rows * chunks; i += warp_size) {
        const int row = warp_row + i / chunks;
        const int column = i % chunks * chunk;
        if (block.first + row >= a.length || column >= a.head_dim) continue;
        *reinterpret_cast<uint4*>(a.out + block.queries + row * a.heads * a.head_dim + column) =
            *reinterpret_cast<const uint4*>(tile.at(row, i % chunks));
    }
}

template <class Tiles, bool capped>
__global__ void __launch_bounds__(Tiles::threads, Tiles::blocks) attention_forward_kernel(ForwardArguments a) {
    constexpr int depth = Tiles::depth;
    const QueryBlock block = query_block<Tiles>(a);

    const SharedTile<depth> query_tile{dynamic_shared<bf16>()};
    bf16* const stages = query_tile.data + Tiles::query_rows * depth;
    const auto copy_keys = [&](int tile) {
        const int key_stride = static_cast<int>(kept_in_loop(static_cast<unsigned>(a.kv_heads))) * a.head_dim;
        const int first_key = tile * Tiles::key_rows;
        const std::int64_t offset = static_cast<std::int64_t>(block.key_row + first_key * a.kv_heads) * a.head_dim;
        bf16* const stage = stages + tile % 2 * Tiles::stage_elements;
        using Copy = TileCopy<Tiles::key_rows, depth, Tiles::threads>;
        Copy::start({stage}, a.k + offset, key_stride, a.length - first_key, a.head_dim);
        Copy::start({stage + Tiles::stage_elements / 2}, a.v + offset, key_stride, a.length - first_key, a.head_dim);
        async_commit();
    };
    TileCopy<Tiles::query_rows, depth, Tiles::threads>::start(query_tile, a.q + block.queries, a.heads * a.head_dim,
                                                              a.length - block.first, a.head_dim);
    int tile = max(0, block.first - a.window + 1) / Tiles::key_rows;
    copy_keys(tile);
    async_wait<0>();
    __syncthreads();

    const WarpQueries<Tiles> queries(query_tile);
    const float factor = a.scale * log2_e;
    WarpRows<Tiles> rows;
    // Finite: a row that has seen no key has weights 2^-inf, not nan.
    for (auto& band : rows.largest) band[0] = band[1] = -1e30F;

    const auto last_tile = [&] {
        const int length = static_cast<int>(kept_in_loop(static_cast<unsigned>(a.length)));
        return (min(block.first + Tiles::query_rows, length) - 1) / Tiles::key_rows;
    };
    for (; tile <= last_tile(); ++tile) {
        async_wait<0>();
        __syncthreads();
        if (tile < last_tile()) copy_keys(tile + 1);
        const int first_query = block.first + warp_first_row<Tiles>();
        const int last_query = first_query + Tiles::warp_rows - 1;
        const int first_key = tile * Tiles::key_rows;
        const int last_key = first_key + Tiles::key_rows - 1;
        if (first_key > last_query || last_key <= first_query - a.window) continue;
        const SharedTile<depth> keys{stages + tile % 2 * Tiles::stage_elements};
        const SharedTile<depth> values{keys.data + Tiles::stage_elements / 2};
        Scores<Tiles> scores = {};
        multiply_keys<Tiles>(scores, queries, keys);
        if constexpr (capped) cap_scores<Tiles>(scores, a.to_share);
        if (last_key > first_query || first_key <= last_query - a.window) {
            mask_scores<Tiles>(scores, first_query, first_key, a.window);
        }
        online_softmax<Tiles>(rows, scores, factor);
        add_values<Tiles>(rows, scores, values);
    }
    store_rows<Tiles>(rows, query_tile, a);
}

template <class Tiles, bool capped>
void start_forward(ForwardArguments a, const AttentionSizes& sizes, Stream stream) {
    const std::int64_t key_bytes = 2 * sizes.length * sizes.head_dim * static_cast<std::int64_t>(sizeof(bf16));
    a.order = BlockOrder(sizes.sequences * sizes.heads, ceil_divide(key_bytes * sizes.kv_heads, sizes.heads),
                         ceil_divide(sizes.length, Tiles::query_rows));
    launch(attention_forward_kernel<Tiles, capped>, a.order.count(), Tiles::threads, Tiles::shared_bytes, stream, a);
}

template <bool capped>
void start_forward_on_tensor_cores(const ForwardArguments& a, const AttentionSizes& sizes, Stream stream) {
    // Short sequences with few heads: blocks half as long, so that there is one for every multiprocessor. A cap takes
    // registers that tiles must leave.
    const std::int64_t long_blocks = sizes.sequences * sizes.heads * ceil_divide(sizes.length, 128);
    const bool few = long_blocks < 2 * multiprocessors();
    switch (tile_width(sizes)) {
        case 64:
            if (few) return start_forward<ForwardTiles<64, 64, 64, 4, true, 3>, capped>(a, sizes, stream);
            return start_forward<ForwardTiles<64, 128, 64, 4, false, capped ? 2 : 3>, capped>(a, sizes, stream);
        case 96:
            return start_forward<ForwardTiles<96, 128, 64, 4, false, 2>, capped>(a, sizes, stream);
        case 128:
            if (few) return start_forward<ForwardTiles<128, 64, 64, 4, true, 2>, capped>(a, sizes, stream);
            return start_forward<ForwardTiles<128, 128, capped ? 32 : 64, 4, false, 2>, capped>(a, sizes, stream);
        default:
            return start_forward<ForwardTiles<256, 64, 32, 4, false, 2>, capped>(a, sizes, stream);
    }
}

}  // namespace

template <class T>
void attention_forward(T* out, float* log_sum_exp, const T* q, const T* k, const T* v, const AttentionSizes& sizes,
                       Stream stream) {
    check_attention(sizes);
    if (sizes.sequences == 0 || sizes.length == 0) return;
    if constexpr (sizeof(T) == sizeof(bf16)) {
        if (has_vector_rows(sizes)) {
            const ForwardArguments a{.out = out,
                                     .log_sum_exp = log_sum_exp,
                                     .q = q,
                                     .k = k,
                                     .v = v,
                                     .sequences = static_cast<int>(sizes.sequences),
                                     .length = static_cast<int>(sizes.length),
                                     .heads = static_cast<int>(sizes.heads),
                                     .kv_heads = static_cast<int>(sizes.kv_heads),
                                     .head_dim = static_cast<int>(sizes.head_dim),
                                     .window = visible_tokens(sizes),
                                     .scale = sizes.cap > 0 ? sizes.cap : attention_scale(sizes),
                                     .order = {},
                                     .to_share = share_factor(sizes)};
            const auto start =
                sizes.cap > 0 ? start_forward_on_tensor_cores<true> : start_forward_on_tensor_cores<false>;
            return start(a, sizes, stream);
        }
    }
    plain_attention_forward(out, log_sum_exp, q, k, v, sizes, stream);
}

template void attention_forward(float*, float*, const float*, const float*, const float*, const AttentionSizes&,
                                Stream);
template void attention_forward(bf16*, float*, const bf16*, const bf16*, const bf16*, const AttentionSizes&, Stream);

}  // namespace pvtune::cuda
