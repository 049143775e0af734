// Backward pass of causal attention, after FlashAttention-2 (Dao, 2023):
//   p = exp(scale q k^T - log_sum_exp), ds = p (d_out v^T - delta), delta = rowsum(d_out out),
//   d_v = p^T d_out, d_k = scale ds^T q, d_q = scale ds k; with a cap, p = exp(cap share - log_sum_exp) and ds has the
//   factor 1 - share^2, share = tanh(scale q k^T / cap).
// A block owns a tile of keys and meets the queries that see it a tile at a time, those of all query heads of its
// key/value head in turn, so that d_k and d_v are summed in registers in a fixed order. Its part of d_q goes to memory
// in fixed point (attention_backward.cuh): five products a pair of tiles and the same bits every run, where a second
// kernel for d_q would make p and ds again, seven products. bf16 on tensor cores; the rest in
// attention_plain_backward.cu.

#include "cuda/attention_backward.cuh"
#include "cuda/attention_plain.h"
#include "cuda/attention_tiles.cuh"

namespace pvtune::cuda {

namespace {

struct BackwardArguments {
    bf16 *d_k, *d_v;
    int* d_q;
    const float* statistics;
    const bf16 *d_out, *q, *k, *v;
    int sequences, length, heads, kv_heads, head_dim, window, padded_length;
    float scale;
    BlockOrder order;
    float cap;       ///< of scores; 0: none
    float to_share;  ///< share_factor()
};

/// Tiles of `keys` x `width` and `queries` x `width`, and how the warps share the three kinds of products: scores
/// [keys, queries] in `score_parts` of keys, d_k and d_v [keys, width] in `key_parts` of keys, d_q [queries, width] in
/// `query_parts` of queries; the other dimension of each is shared by the rest of the warps.
template <int width, int keys, int queries, int warps, int score_parts, int key_parts, int query_parts>
struct BackwardTiles {
    static constexpr int depth = width, key_rows = keys, query_rows = queries;
    static constexpr int threads = warps * warp_size;
    static constexpr int score_keys = keys / score_parts, score_queries = queries / (warps / score_parts);
    static constexpr int sum_keys = keys / key_parts, sum_columns = width / (warps / key_parts);
    static constexpr int d_q_queries = queries / query_parts, d_q_columns = width / (warps / query_parts);
    static constexpr int score_keys_parts = score_parts, sum_keys_parts = key_parts, d_q_queries_parts = query_parts;
    static_assert(score_keys % 16 == 0 && score_queries % 16 == 0 && sum_keys % 16 == 0 && sum_columns % 16 == 0 &&
                  d_q_queries % 16 == 0 && d_q_columns % 16 == 0 && statistics_rows % queries == 0);

    /// Numbers of d_q that a thread adds to memory for a tile of queries.
    static constexpr int d_q_numbers = queries * width / threads;
    /// Queries on their way, in use, and in use still by the slowest warp: one barrier a tile of queries is enough.
    static constexpr int stages = 3;
    static constexpr int stage_elements = 2 * queries * width;
    static constexpr int weight_elements = keys * queries;
    static constexpr int stage_statistics = statistics_a_row * queries;
    static constexpr int shared_bytes =
        (2 * keys * width + stages * stage_elements + 2 * 2 * weight_elements) * static_cast<int>(sizeof(bf16)) +
        stages * stage_statistics * static_cast<int>(sizeof(float));
    static_assert(shared_bytes <= 227 * 1024, "more than a block can have on sm_90");
};

/// The block's shared memory.
template <class Tiles>
struct BackwardShared {
    bf16* memory;
    __device__ SharedTile<Tiles::depth> keys() const { return {memory}; }
    __device__ SharedTile<Tiles::depth> values() const { return {memory + Tiles::key_rows * Tiles::depth}; }
    __device__ SharedTile<Tiles::depth> queries(int stage) const {
        return {memory + 2 * Tiles::key_rows * Tiles::depth + stage * Tiles::stage_elements};
    }
    __device__ SharedTile<Tiles::depth> d_out(int stage) const {
        return {queries(stage).data + Tiles::query_rows * Tiles::depth};
    }
    /// Transposed: keys along rows. Of even and odd tiles of queries in turn.
    __device__ SharedTile<Tiles::query_rows> weights(int turn) const {
        return {queries(Tiles::stages).data + turn * 2 * Tiles::weight_elements};
    }
    __device__ SharedTile<Tiles::query_rows> d_scores(int turn) const {
        return {weights(turn).data + Tiles::weight_elements};
    }
    __device__ float* statistics(int stage) const {
        return reinterpret_cast<float*>(weights(2).data) + stage * Tiles::stage_statistics;
    }
};

/// The block's place among the keys, and the tiles of queries that see its keys, in every head that shares them.
struct KeyBlock {
    int sequence, kv_head, first;  ///< keys
    int first_tile, last_tile;
    int end_head;
};

template <class Tiles>
__device__ inline KeyBlock key_block(const BackwardArguments& a) {
    const HeadPlace place = place_of(a.order, static_cast<int>(kept_in_loop(blockIdx.x)), a.kv_heads);
    const int first = place.block * Tiles::key_rows;
    // Up to the last query that sees the last key; 64-bit, for a window may be as long as the sequence.
    const auto last = static_cast<int>(min(static_cast<std::int64_t>(a.length) - 1,
                                           static_cast<std::int64_t>(first) + Tiles::key_rows + a.window - 2));
    return {place.sequence,
            place.head,
            first,
            first / Tiles::query_rows,
            last / Tiles::query_rows,
            (place.head + 1) * (a.heads / a.kv_heads)};
}

/// A tile of queries on the block's way: tile by tile, head by head.
struct QueryTile {
    int head, tile;
    __device__ explicit QueryTile(const KeyBlock& block, int share)
        : head(block.end_head - share), tile(block.first_tile) {}
    __device__ void advance(const KeyBlock& block) {
        if (++tile <= block.last_tile) return;
        tile = block.first_tile;
        ++head;
    }
};

/// The warp's part of a product that is cut in `parts` of rows: which rows, which columns.
template <int parts>
__device__ inline int row_part() {
    return static_cast<int>(kept_in_loop(threadIdx.x) / warp_size) % parts;
}
template <int parts>
__device__ inline int column_part() {
    return static_cast<int>(kept_in_loop(threadIdx.x) / warp_size) / parts;
}

template <class Tiles>
__device__ inline void copy_queries(const BackwardShared<Tiles>& shared, int stage, const KeyBlock& block,
                                    const QueryTile& coming, const BackwardArguments& a) {
    const int head = coming.head;
    const int first = coming.tile * Tiles::query_rows;
    const int stride = a.heads * a.head_dim;
    const std::int64_t offset =
        ((static_cast<std::int64_t>(block.sequence) * a.length + first) * a.heads + head) * a.head_dim;
    using Copy = TileCopy<Tiles::query_rows, Tiles::depth, Tiles::threads>;
    Copy::start(shared.queries(stage), a.q + offset, stride, a.length - first, a.head_dim);
    Copy::start(shared.d_out(stage), a.d_out + offset, stride, a.length - first, a.head_dim);
    constexpr unsigned pieces = Tiles::query_rows / 4U;
    const unsigned thread = kept_in_loop(threadIdx.x);
    if (thread < statistics_a_row * pieces) {
        const std::int64_t rows = static_cast<std::int64_t>(a.sequences) * a.heads * a.padded_length;
        const std::int64_t row = (static_cast<std::int64_t>(block.sequence) * a.heads + head) * a.padded_length + first;
        const unsigned piece = thread % pieces * 4U;
        async_copy_16(shared.statistics(stage) + thread / pieces * Tiles::query_rows + piece,
                      a.statistics + thread / pieces * rows + row + piece);
    }
    async_commit();
}

/// weights = p^T and d_scores = ds^T of the warp's keys and queries, to shared memory.
template <class Tiles, bool capped>
__device__ inline void make_scores(const BackwardShared<Tiles>& shared, int stage, int turn, int first_query,
                                   int first_key, const BackwardArguments& a) {
    constexpr int bands = Tiles::score_keys / 16;
    constexpr int eights = Tiles::score_queries / 8;
    const int key_part = row_part<Tiles::score_keys_parts>() * Tiles::score_keys;
    const int query_part = column_part<Tiles::score_keys_parts>() * Tiles::score_queries;
    first_key += key_part;
    first_query += query_part;
    const int last_key = first_key + Tiles::score_keys - 1;
    const int last_query = first_query + Tiles::score_queries - 1;
    const bool any_visible = first_key <= last_query && first_query - last_key < a.window;

    const auto lane = static_cast<int>(kept_in_loop(threadIdx.x) % warp_size);
    const float* const statistics = shared.statistics(stage) + query_part + lane % 4 * 2;
    float scores[bands][eights][4] = {};
    float d_weights[bands][eights][4];
#pragma unroll
    for (int n = 0; n < eights; ++n) {
        const float2 minus_delta =
            *reinterpret_cast<const float2*>(statistics + delta_statistic * Tiles::query_rows + n * 8);
#pragma unroll
        for (int band = 0; band < bands; ++band) {
            d_weights[band][n][0] = d_weights[band][n][2] = minus_delta.x;
            d_weights[band][n][1] = d_weights[band][n][3] = minus_delta.y;
        }
    }
    if (any_visible) {
        multiply_tiles<Tiles::depth>(scores, Operand<Tiles::depth, true, false>(shared.keys(), key_part, 0),
                                     Operand<Tiles::depth, false, false>(shared.queries(stage), query_part, 0));
        multiply_tiles<Tiles::depth>(d_weights, Operand<Tiles::depth, true, false>(shared.values(), key_part, 0),
                                     Operand<Tiles::depth, false, false>(shared.d_out(stage), query_part, 0));
    }
    const bool all_visible = last_key <= first_query && last_query - first_key < a.window;
    const float factor = (capped ? a.cap : a.scale) * log2_e;
    const int distance = first_query + lane % 4 * 2 - first_key - lane / 4;
    const SharedTile<Tiles::query_rows> weight_tile = shared.weights(turn);
#pragma unroll
    for (int n = 0; n < eights; ++n) {
        const float2 shift = *reinterpret_cast<const float2*>(statistics + shift_statistic * Tiles::query_rows + n * 8);
#pragma unroll
        for (int band = 0; band < bands; ++band) {
            float weight[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float& score = scores[band][n][e];
                if constexpr (capped) {
                    score = capped_share(score * a.to_share);
                    d_weights[band][n][e] *= fmaf(-score, score, 1.0F);
                }
                weight[e] = exp2_fast(fmaf(score, factor, e % 2 == 0 ? shift.x : shift.y));
                const int back = distance + n * 8 + e % 2 - band * 16 - e / 2 * 8;
                if (!all_visible && static_cast<unsigned>(back) >= static_cast<unsigned>(a.window)) weight[e] = 0;
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const auto row = static_cast<unsigned>(key_part + band * 16 + half * 8 + lane / 4);
                const auto chunk_column = static_cast<unsigned>(query_part / chunk + n);
                auto* const to = reinterpret_cast<std::uint32_t*>(weight_tile.at(row, chunk_column)) + lane % 4;
                to[0] = pack_bf16(weight[2 * half], weight[2 * half + 1]);
                to[Tiles::weight_elements / 2] = pack_bf16(weight[2 * half] * d_weights[band][n][2 * half],
                                                           weight[2 * half + 1] * d_weights[band][n][2 * half + 1]);
            }
        }
    }
}

/// The block's part of d_q of a tile of queries, added to memory in the order of the fragments.
template <class Tiles>
__device__ inline void add_d_q(const BackwardShared<Tiles>& shared, int stage, int turn, const KeyBlock& block,
                               const QueryTile& now, const BackwardArguments& a) {
    constexpr int bands = Tiles::d_q_queries / 16;
    constexpr int eights = Tiles::d_q_columns / 8;
    const int query_part = row_part<Tiles::d_q_queries_parts>() * Tiles::d_q_queries;
    const int column = column_part<Tiles::d_q_queries_parts>() * Tiles::d_q_columns;
    float d_q[bands][eights][4] = {};
    multiply_tiles<Tiles::key_rows>(d_q, Operand<Tiles::query_rows, true, true>(shared.d_scores(turn), 0, query_part),
                                    Operand<Tiles::depth, false, true>(shared.keys(), 0, column));

    const int tiles = (a.length + Tiles::query_rows - 1) / Tiles::query_rows;
    const std::int64_t tile = static_cast<std::int64_t>(block.sequence * a.heads + now.head) * tiles + now.tile;
    const unsigned thread = kept_in_loop(threadIdx.x);
    int* const to = a.d_q + tile * (Tiles::query_rows * Tiles::depth) + thread;
    const float* const units =
        shared.statistics(stage) + unit_statistic * Tiles::query_rows + query_part + thread % warp_size / 4;
#pragma unroll
    for (int band = 0; band < bands; ++band) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float inverse_unit = units[band * 16 + half * 8];
#pragma unroll
            for (int i = 0; i < eights * 2; ++i) {
                const float value = d_q[band][i / 2][half * 2 + i % 2];
                atomicAdd(to + ((band * 2 + half) * eights * 2 + i) * Tiles::threads,
                          __float2int_rn(value * inverse_unit));
            }
        }
    }
}

/// Rows of d_k or d_v by way of a tile of shared memory that nothing else uses any more.
template <class Tiles>
__device__ inline void store_sums(bf16* to, SharedTile<Tiles::depth> tile,
                                  const float (&sums)[Tiles::sum_keys / 16][Tiles::sum_columns / 8][4], float factor,
                                  const KeyBlock& block, const BackwardArguments& a) {
    const auto lane = kept_in_loop(threadIdx.x) % warp_size;
    const auto first_row = static_cast<unsigned>(row_part<Tiles::sum_keys_parts>() * Tiles::sum_keys) + lane / 4;
    const auto first_chunk = static_cast<unsigned>(column_part<Tiles::sum_keys_parts>() * Tiles::sum_columns / chunk);
#pragma unroll
    for (int band = 0; band < Tiles::sum_keys / 16; ++band) {
#pragma unroll
        for (int n = 0; n < Tiles::sum_columns / 8; ++n) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                bf16* const row = tile.at(first_row + static_cast<unsigned>(band * 16 + half * 8),
                                          first_chunk + static_cast<unsigned>(n));
                reinterpret_cast<std::uint32_t*>(row)[lane % 4] =
                    pack_bf16(sums[band][n][2 * half] * factor, sums[band][n][2 * half + 1] * factor);
            }
        }
    }
    __syncthreads();
    constexpr unsigned chunks = SharedTile<Tiles::depth>::chunks;
    for (unsigned i = threadIdx.x; i < Tiles::key_rows * chunks; i += Tiles::threads) {
        const int key = block.first + static_cast<int>(i / chunks);
        const int column = static_cast<int>(i % chunks) * chunk;
        if (key >= a.length || column >= a.head_dim) continue;
        const std::int64_t row = static_cast<std::int64_t>(block.sequence) * a.length + key;
        *reinterpret_cast<uint4*>(to + (row * a.kv_heads + block.kv_head) * a.head_dim + column) =
            *reinterpret_cast<const uint4*>(tile.at(i / chunks, i % chunks));
    }
}

template <class Tiles, bool capped>
__global__ void __launch_bounds__(Tiles::threads, 1) attention_backward_kernel(BackwardArguments a) {
    constexpr int depth = Tiles::depth;
    const BackwardShared<Tiles> shared{dynamic_shared<bf16>()};
    const KeyBlock block = key_block<Tiles>(a);
    {
        const std::int64_t row = static_cast<std::int64_t>(block.sequence) * a.length + block.first;
        const std::int64_t offset = (row * a.kv_heads + block.kv_head) * a.head_dim;
        using Copy = TileCopy<Tiles::key_rows, depth, Tiles::threads>;
        Copy::start(shared.keys(), a.k + offset, a.kv_heads * a.head_dim, a.length - block.first, a.head_dim);
        Copy::start(shared.values(), a.v + offset, a.kv_heads * a.head_dim, a.length - block.first, a.head_dim);
    }
    QueryTile now(block, a.heads / a.kv_heads);
    QueryTile coming = now;
    copy_queries(shared, 0, block, coming, a);
    async_wait<0>();
    __syncthreads();
    coming.advance(block);
    if (coming.head < block.end_head) copy_queries(shared, 1, block, coming, a);

    float d_keys[Tiles::sum_keys / 16][Tiles::sum_columns / 8][4] = {};
    float d_values[Tiles::sum_keys / 16][Tiles::sum_columns / 8][4] = {};
    int stage = 0;
    for (int turn = 0; now.head < block.end_head; turn ^= 1) {
        make_scores<Tiles, capped>(shared, stage, turn, now.tile * Tiles::query_rows, block.first, a);
        // The next queries are here and every warp is done with those before: their stage is free.
        async_wait<0>();
        __syncthreads();
        coming.advance(block);
        if (coming.head < block.end_head) copy_queries(shared, stage == 0 ? 2 : stage - 1, block, coming, a);

        const int key_part = row_part<Tiles::sum_keys_parts>() * Tiles::sum_keys;
        const int column = column_part<Tiles::sum_keys_parts>() * Tiles::sum_columns;
        using Left = Operand<Tiles::query_rows, true, false>;
        using Right = Operand<depth, false, true>;
        multiply_tiles<Tiles::query_rows>(d_values, Left(shared.weights(turn), key_part, 0),
                                          Right(shared.d_out(stage), 0, column));
        multiply_tiles<Tiles::query_rows>(d_keys, Left(shared.d_scores(turn), key_part, 0),
                                          Right(shared.queries(stage), 0, column));
        add_d_q(shared, stage, turn, block, now, a);
        now.advance(block);
        stage = stage == 2 ? 0 : stage + 1;
    }
    __syncthreads();
    const KeyBlock again = key_block<Tiles>(a);  // what is computed twice takes no registers from the loop
    store_sums<Tiles>(a.d_k, shared.keys(), d_keys, a.scale, again, a);
    store_sums<Tiles>(a.d_v, shared.values(), d_values, 1.0F, again, a);
}

/// d_q = scale * unit * the sums of add_d_q, in rows.
template <class Tiles>
__global__ void __launch_bounds__(Tiles::threads) attention_d_q_kernel(bf16* d_q, BackwardArguments a) {
    __shared__ __align__(128) bf16 rows[Tiles::query_rows * Tiles::depth];
    const SharedTile<Tiles::depth> tile{rows};
    const int tiles = (a.length + Tiles::query_rows - 1) / Tiles::query_rows;
    const int head = static_cast<int>(blockIdx.x) / tiles;
    const int first = static_cast<int>(blockIdx.x) % tiles * Tiles::query_rows;
    constexpr unsigned numbers = Tiles::query_rows * Tiles::depth;
    const int* const from = a.d_q + static_cast<std::int64_t>(blockIdx.x) * numbers + threadIdx.x;
    const unsigned lane = threadIdx.x % warp_size;
    const auto first_row = static_cast<unsigned>(row_part<Tiles::d_q_queries_parts>() * Tiles::d_q_queries) + lane / 4;
    const auto first_chunk =
        static_cast<unsigned>(column_part<Tiles::d_q_queries_parts>() * Tiles::d_q_columns / chunk);
    const float* const inverse_units =
        a.statistics + (static_cast<std::int64_t>(unit_statistic) * a.sequences * a.heads + head) * a.padded_length +
        first;
    constexpr unsigned eights = Tiles::d_q_columns / 8;
#pragma unroll
    for (unsigned i = 0; i < Tiles::d_q_numbers / 2; ++i) {
        const unsigned row = first_row + i / eights * 8;
        const float inverse = inverse_units[row];
        const int exponent = __float_as_int(inverse) >> 23;  // of a power of 2, biased
        const float unit = inverse > 0.0F ? a.scale * __int_as_float((254 - exponent) << 23) : inverse;
        const int low = from[2 * i * Tiles::threads];
        const int high = from[(2 * i + 1) * Tiles::threads];
        reinterpret_cast<std::uint32_t*>(tile.at(row, first_chunk + i % eights))[lane % 4] =
            pack_bf16(__int2float_rn(low) * unit, __int2float_rn(high) * unit);
    }
    __syncthreads();
    constexpr unsigned chunks = SharedTile<Tiles::depth>::chunks;
    for (unsigned i = threadIdx.x; i < Tiles::query_rows * chunks; i += Tiles::threads) {
        const int query = first + static_cast<int>(i / chunks);
        const int column = static_cast<int>(i % chunks) * chunk;
        if (query >= a.length || column >= a.head_dim) continue;
        const std::int64_t token = static_cast<std::int64_t>(head / a.heads) * a.length + query;
        *reinterpret_cast<uint4*>(d_q + (token * a.heads + head % a.heads) * a.head_dim + column) =
            *reinterpret_cast<const uint4*>(tile.at(i / chunks, i % chunks));
    }
}

template <class Tiles>
void start_backward(bf16* d_q, BackwardArguments a, const AttentionSizes& sizes, Stream stream) {
    // What the blocks of one key/value head share in L2: k, v, and of each query head q, d_out and d_q.
    const std::int64_t row_bytes = (4 + sizes.heads / sizes.kv_heads * 8) * sizes.head_dim;
    a.order = BlockOrder(sizes.sequences * sizes.kv_heads, sizes.length * row_bytes,
                         ceil_divide(sizes.length, Tiles::key_rows));
    const auto kernel =
        sizes.cap > 0 ? attention_backward_kernel<Tiles, true> : attention_backward_kernel<Tiles, false>;
    launch(kernel, a.order.count(), Tiles::threads, Tiles::shared_bytes, stream, a);
    const std::int64_t query_tiles = sizes.sequences * sizes.heads * ceil_divide(sizes.length, Tiles::query_rows);
    launch(attention_d_q_kernel<Tiles>, static_cast<unsigned>(query_tiles), Tiles::threads, 0, stream, d_q, a);
}

/// False if the device has too little shared memory for the only tiles there are.
bool start_backward_on_tensor_cores(bf16* d_q, const BackwardArguments& a, const AttentionSizes& sizes, Stream stream) {
    using Long64 = BackwardTiles<64, 128, 64, 8, 4, 4, 4>;
    using Long96 = BackwardTiles<96, 128, 64, 8, 4, 4, 4>;
    using Long128 = BackwardTiles<128, 128, 64, 8, 4, 4, 2>;
    using Only256 = BackwardTiles<256, 64, 32, 8, 4, 2, 2>;
    using Short64 = BackwardTiles<64, 64, 32, 4, 2, 2, 2>;
    using Short96 = BackwardTiles<96, 64, 32, 4, 2, 2, 2>;
    using Short128 = BackwardTiles<128, 64, 32, 4, 2, 2, 1>;
    static_assert(Short128::shared_bytes <= 99 * 1024, "more than the smallest device of sm_80 and newer has");
    // Short tiles where long ones would leave multiprocessors without work, or do not fit.
    const std::int64_t long_blocks = sizes.sequences * sizes.kv_heads * ceil_divide(sizes.length, Long64::key_rows);
    const auto is_long = [&](int shared_bytes) {
        return long_blocks >= multiprocessors() && shared_bytes <= most_shared_bytes();
    };
    switch (tile_width(sizes)) {
        case 64:
            is_long(Long64::shared_bytes) ? start_backward<Long64>(d_q, a, sizes, stream)
                                          : start_backward<Short64>(d_q, a, sizes, stream);
            return true;
        case 96:
            is_long(Long96::shared_bytes) ? start_backward<Long96>(d_q, a, sizes, stream)
                                          : start_backward<Short96>(d_q, a, sizes, stream);
            return true;
        case 128:
            is_long(Long128::shared_bytes) ? start_backward<Long128>(d_q, a, sizes, stream)
                                           : start_backward<Short128>(d_q, a, sizes, stream);
            return true;
        default:
            if (Only256::shared_bytes > most_shared_bytes()) return false;
            start_backward<Only256>(d_q, a, sizes, stream);
            return true;
    }
}

}  // namespace

template <class T>
void attention_backward(T* d_q, T* d_k, T* d_v, const T* d_out, const T* out, const float* log_sum_exp, const T* q,
                        const T* k, const T* v, const AttentionSizes& sizes, void* workspace, Stream stream) {
    check_attention(sizes);
    if (sizes.sequences == 0 || sizes.length == 0) return;
    if constexpr (sizeof(T) == sizeof(bf16)) {
        if (has_vector_rows(sizes)) {
            const BackwardWorkspace parts(sizes, workspace);
            prepare_attention_backward(parts, d_out, out, log_sum_exp, k, v, sizes, stream);
            const BackwardArguments a{.d_k = d_k,
                                      .d_v = d_v,
                                      .d_q = parts.d_q,
                                      .statistics = parts.statistics,
                                      .d_out = d_out,
                                      .q = q,
                                      .k = k,
                                      .v = v,
                                      .sequences = static_cast<int>(sizes.sequences),
                                      .length = static_cast<int>(sizes.length),
                                      .heads = static_cast<int>(sizes.heads),
                                      .kv_heads = static_cast<int>(sizes.kv_heads),
                                      .head_dim = static_cast<int>(sizes.head_dim),
                                      .window = visible_tokens(sizes),
                                      .padded_length = static_cast<int>(parts.padded_length(sizes)),
                                      .scale = attention_scale(sizes),
                                      .order = {},
                                      .cap = sizes.cap,
                                      .to_share = share_factor(sizes)};
            if (start_backward_on_tensor_cores(d_q, a, sizes, stream)) return;
        }
    }
    plain_attention_backward(d_q, d_k, d_v, d_out, out, log_sum_exp, q, k, v, sizes, workspace, stream);
}

std::size_t attention_backward_workspace(const AttentionSizes& sizes, DType dtype) {
    check_attention(sizes);
    const std::size_t plain = plain_attention_backward_workspace(sizes);
    if (dtype == DType::f32 || !has_vector_rows(sizes)) return plain;
    return std::max(plain, BackwardWorkspace(sizes, nullptr).bytes);
}

template void attention_backward(float*, float*, float*, const float*, const float*, const float*, const float*,
                                 const float*, const float*, const AttentionSizes&, void*, Stream);
template void attention_backward(bf16*, bf16*, bf16*, const bf16*, const bf16*, const float*, const bf16*, const bf16*,
                                 const bf16*, const AttentionSizes&, void*, Stream);

}  // namespace pvtune::cuda
