// Attention of one new token against a cache of keys and values, out[h] = sum_t softmax_t(q[h] k[t]) v[t], bound by
// reading the cache once. The cache is cut into parts, so that even one head gives work to the whole device
// (flash-decoding); a block takes one part of one key/value head for up to 8 of its query heads, and a second kernel
// weighs the parts by their log-sum-exps, in a fixed order.

#include "cuda/attention_sizes.h"
#include "cuda/device.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int threads = 128;
constexpr int warps = threads / warp_size;
/// Rows whose loads a lane starts before it uses the first.
constexpr int rows_in_flight = 4;
constexpr int elements_a_lane = 8;
constexpr int shortest_part = 64, longest_part = 1024;

/// How the cache is cut.
struct DecodeParts {
    int first = 0;  ///< visible row of the cache
    int rows = 0;   ///< of a part
    int parts = 0;
    int head_groups = 0, heads_a_group = 0;  ///< query heads of a key/value head

    static int heads_at_once(std::int64_t share) { return share == 1 ? 1 : share <= 4 ? 4 : 8; }
    static std::int64_t wanted_parts(const AttentionSizes& sizes) {
        const std::int64_t share = sizes.heads / sizes.kv_heads;
        // Four blocks of 4 warps a multiprocessor keep enough bytes under way.
        return ceil_divide(4 * multiprocessors(), sizes.kv_heads * ceil_divide(share, heads_at_once(share)));
    }
    /// Not fewer for a longer cache: a workspace for the longest serves all.
    static std::int64_t most_parts(const AttentionSizes& sizes) {
        const std::int64_t rows = visible_tokens(sizes);
        return std::min(ceil_divide(rows, shortest_part),
                        std::max(wanted_parts(sizes), ceil_divide(rows, longest_part)));
    }
    explicit DecodeParts(const AttentionSizes& sizes) {
        const std::int64_t visible = visible_tokens(sizes);
        const std::int64_t share = sizes.heads / sizes.kv_heads;
        first = static_cast<int>(sizes.length - visible);
        rows = static_cast<int>(std::clamp<std::int64_t>(
            ceil_divide(ceil_divide(visible, wanted_parts(sizes)), shortest_part) * shortest_part, shortest_part,
            longest_part));
        parts = static_cast<int>(ceil_divide(visible, rows));
        heads_a_group = heads_at_once(share);
        head_groups = static_cast<int>(ceil_divide(share, heads_a_group));
    }
};

template <class T>
struct DecodeArguments {
    T* out;
    float* partial;     ///< [parts, heads, head_dim], relative to the part's largest score
    float* statistics;  ///< [parts, heads, 2]: largest score, sum of weights
    const T *q, *keys, *values;
    int length, heads, kv_heads, head_dim;
    float scale;
    DecodeParts cut;
    float cap;
};

/// How the lanes of a warp share rows: `lanes` lanes a row, each with 8 elements: neighbours, read as 16 bytes, or
/// every 32nd.
template <class T, int lanes_a_row, bool in_vectors>
struct RowLanes {
    static constexpr int lanes = lanes_a_row;
    static constexpr int rows = warp_size / lanes;
    static_assert(in_vectors || lanes == warp_size);

    __device__ static int column(int element) {
        const int lane = static_cast<int>(threadIdx.x) % lanes;
        return in_vectors ? lane * elements_a_lane + element : lane + element * warp_size;
    }
    /// Where a row ends before the warp does, lanes read its last elements again: a branch would let a lane wait for
    /// each of its loads in turn. Queries are zero there, and no result is stored.
    __device__ static void load(float (&elements)[elements_a_lane], const T* row, int head_dim) {
        if constexpr (in_vectors) {
            load_lanes(elements, row + min(column(0), head_dim - elements_a_lane));
        } else {
#pragma unroll
            for (int e = 0; e < elements_a_lane; ++e) elements[e] = to_float(row[min(column(e), head_dim - 1)]);
        }
    }
    __device__ static void load_query(float (&elements)[elements_a_lane], const T* row, int head_dim) {
        load(elements, row, head_dim);
#pragma unroll
        for (int e = 0; e < elements_a_lane; ++e) elements[e] = column(e) < head_dim ? elements[e] : 0.0F;
    }
};

/// Sums each of sums[0..count) over groups of `lanes` lanes, with fewer exchanges than one sum at a time: half of the
/// sums go each way. sums[0] is then the sum of the number that is returned.
template <int count, int lanes>
__device__ inline int sum_scattered(float (&sums)[count]) {
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    int which = 0;
    int width = count;
#pragma unroll
    for (int offset = 1; offset < lanes; offset *= 2) {
        if (width > 1) {
            width /= 2;
            const bool upper = (lane & offset) != 0;
            which += upper ? width : 0;
#pragma unroll
            for (int i = 0; i < width; ++i) {
                const float sent = upper ? sums[i] : sums[i + width];
                const float kept = upper ? sums[i + width] : sums[i];
                sums[i] = kept + __shfl_xor_sync(whole_warp, sent, offset);
            }
        } else {
            sums[0] += __shfl_xor_sync(whole_warp, sums[0], offset);
        }
    }
    return which;
}

template <class T, class Lanes, int query_heads>
__global__ void __launch_bounds__(threads) attention_decode_kernel(DecodeArguments<T> a) {
    const int part = static_cast<int>(blockIdx.x) % a.cut.parts;
    const int kv_head = static_cast<int>(blockIdx.x) / a.cut.parts / a.cut.head_groups;
    const int group = static_cast<int>(blockIdx.x) / a.cut.parts % a.cut.head_groups;
    const int share = a.heads / a.kv_heads;
    const int first_head = kv_head * share + group * query_heads;
    const int present_heads = min(query_heads, share - group * query_heads);
    const int first = a.cut.first + part * a.cut.rows;
    const int rows = min(a.cut.rows, a.length - first);
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    auto* const weights = dynamic_shared<float>();           // [query_heads][rows of a part]
    float* const sums = weights + query_heads * a.cut.rows;  // [warps][query_heads][head_dim]
    __shared__ float largest[query_heads], total[query_heads];

    const std::int64_t stride = static_cast<std::int64_t>(a.kv_heads) * a.head_dim;
    const std::int64_t offset = first * stride + static_cast<std::int64_t>(kv_head) * a.head_dim;
    constexpr int rows_at_once = warps * Lanes::rows;
    const int own_row = warp * Lanes::rows + lane / Lanes::lanes;
    const auto load_rows = [&](float(&elements)[rows_in_flight][elements_a_lane], const T* from, int base) {
#pragma unroll
        for (int i = 0; i < rows_in_flight; ++i) {
            const int row = min(base + i * rows_at_once + own_row, rows - 1);
            Lanes::load(elements[i], from + offset + row * stride, a.head_dim);
        }
        __syncwarp();  // the compiler must not put off a load until the rows before it are used
    };

    {
        float queries[query_heads][elements_a_lane];
#pragma unroll
        for (int h = 0; h < query_heads; ++h) {
            const int head = first_head + min(h, present_heads - 1);
            Lanes::load_query(queries[h], a.q + static_cast<std::int64_t>(head) * a.head_dim, a.head_dim);
        }
        for (int base = 0; base < rows; base += rows_in_flight * rows_at_once) {
            float keys[rows_in_flight][elements_a_lane];
            load_rows(keys, a.keys, base);
#pragma unroll
            for (int i = 0; i < rows_in_flight; ++i) {
                float scores[query_heads] = {};
#pragma unroll
                for (int h = 0; h < query_heads; ++h) {
#pragma unroll
                    for (int e = 0; e < elements_a_lane; ++e) scores[h] = fmaf(queries[h][e], keys[i][e], scores[h]);
                }
                const int head = sum_scattered<query_heads, Lanes::lanes>(scores);
                const int row = base + i * rows_at_once + own_row;
                if (lane % Lanes::lanes < query_heads && row < rows)
                    weights[head * a.cut.rows + row] = scores[0] * a.scale;
            }
        }
    }
    __syncthreads();
    for (int h = warp; h < query_heads; h += warps) {
        float* const own = weights + h * a.cut.rows;
        if (a.cap > 0) {
#pragma unroll 1
            for (int row = lane; row < rows; row += warp_size) own[row] = a.cap * tanhf(own[row] / a.cap);
        }
        float top = -INFINITY;
        for (int row = lane; row < rows; row += warp_size) top = fmaxf(top, own[row]);
        top = warp_max(top);
        float sum = 0;
        for (int row = lane; row < rows; row += warp_size) {
            own[row] = expf(own[row] - top);
            sum += own[row];
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            largest[h] = top;
            total[h] = sum;
        }
    }
    __syncthreads();
    float results[query_heads][elements_a_lane] = {};
    for (int base = 0; base < rows; base += rows_in_flight * rows_at_once) {
        float values[rows_in_flight][elements_a_lane];
        load_rows(values, a.values, base);
#pragma unroll
        for (int i = 0; i < rows_in_flight; ++i) {
            const int row = base + i * rows_at_once + own_row;
#pragma unroll
            for (int h = 0; h < query_heads; ++h) {
                const float weight = row < rows ? weights[h * a.cut.rows + row] : 0.0F;
#pragma unroll
                for (int e = 0; e < elements_a_lane; ++e) results[h][e] = fmaf(weight, values[i][e], results[h][e]);
            }
        }
    }
#pragma unroll
    for (int h = 0; h < query_heads; ++h) {
#pragma unroll
        for (int e = 0; e < elements_a_lane; ++e) {
#pragma unroll
            for (int distance = Lanes::lanes; distance < warp_size; distance *= 2) {
                results[h][e] += __shfl_xor_sync(whole_warp, results[h][e], distance);
            }
            if (lane < Lanes::lanes && Lanes::column(e) < a.head_dim) {
                sums[(warp * query_heads + h) * a.head_dim + Lanes::column(e)] = results[h][e];
            }
        }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < present_heads * a.head_dim; i += threads) {
        float sum = 0;
        for (int w = 0; w < warps; ++w) sum += sums[w * query_heads * a.head_dim + i];
        if (a.cut.parts == 1) {
            a.out[first_head * a.head_dim + i] = from_float<T>(sum / total[i / a.head_dim]);
        } else {
            a.partial[(static_cast<std::int64_t>(part) * a.heads + first_head) * a.head_dim + i] = sum;
        }
    }
    if (a.cut.parts > 1 && static_cast<int>(threadIdx.x) < present_heads) {
        float* const to = a.statistics + (static_cast<std::int64_t>(part) * a.heads + first_head + threadIdx.x) * 2;
        to[0] = largest[threadIdx.x];
        to[1] = total[threadIdx.x];
    }
}

constexpr int combine_threads = 512;

/// out[h] = sum over parts of weight * partial / sum over parts of weight * sum; a block a head, several groups of
/// threads that each take every so-many-th part.
template <class T>
__global__ void __launch_bounds__(combine_threads) attention_combine_kernel(DecodeArguments<T> a) {
    __shared__ float partials[combine_threads / warp_size];
    __shared__ float sums[combine_threads];
    const auto head = static_cast<int>(blockIdx.x);
    const auto thread = static_cast<int>(threadIdx.x);
    auto* const weights = dynamic_shared<float>();  // [parts]
    float top = -INFINITY;
    for (int part = thread; part < a.cut.parts; part += combine_threads) {
        top = fmaxf(top, a.statistics[(static_cast<std::int64_t>(part) * a.heads + head) * 2]);
    }
    top = block_max(top, partials);
    float total = 0;
    for (int part = thread; part < a.cut.parts; part += combine_threads) {
        const float* const statistics = a.statistics + (static_cast<std::int64_t>(part) * a.heads + head) * 2;
        weights[part] = expf(statistics[0] - top);
        total += weights[part] * statistics[1];
    }
    total = block_sum(total, partials);
    const int groups = combine_threads / a.head_dim;
    const int group = thread / a.head_dim;
    float sum = 0;
    if (group < groups) {
#pragma unroll 4
        for (int part = group; part < a.cut.parts; part += groups) {
            const std::int64_t row = static_cast<std::int64_t>(part) * a.heads + head;
            sum = fmaf(weights[part], a.partial[row * a.head_dim + thread % a.head_dim], sum);
        }
    }
    sums[thread] = sum;
    __syncthreads();
    if (thread >= a.head_dim) return;
    for (int i = 1; i < groups; ++i) sum += sums[i * a.head_dim + thread];
    a.out[head * a.head_dim + thread] = from_float<T>(sum / total);
}

template <class T, class Lanes, int query_heads>
void start_decode(const DecodeArguments<T>& a, Stream stream) {
    const auto blocks = static_cast<unsigned>(a.cut.parts * a.kv_heads * a.cut.head_groups);
    const auto shared = static_cast<std::size_t>(query_heads * (a.cut.rows + warps * a.head_dim)) * sizeof(float);
    launch(attention_decode_kernel<T, Lanes, query_heads>, blocks, threads, shared, stream, a);
}

template <class T, class Lanes>
void start_decode(const DecodeArguments<T>& a, Stream stream) {
    if (a.cut.heads_a_group == 1) return start_decode<T, Lanes, 1>(a, stream);
    if (a.cut.heads_a_group == 4) return start_decode<T, Lanes, 4>(a, stream);
    start_decode<T, Lanes, 8>(a, stream);
}

template <class T>
void start_decode(const DecodeArguments<T>& a, Stream stream) {
    if constexpr (sizeof(T) == sizeof(bf16)) {
        if (a.head_dim % elements_a_lane == 0) {
            if (a.head_dim <= 64) return start_decode<T, RowLanes<T, 8, true>>(a, stream);
            if (a.head_dim <= 128) return start_decode<T, RowLanes<T, 16, true>>(a, stream);
            return start_decode<T, RowLanes<T, 32, true>>(a, stream);
        }
    }
    start_decode<T, RowLanes<T, 32, false>>(a, stream);
}

}  // namespace

template <class T>
void attention_decode(T* out, const T* q, const T* keys, const T* values, const AttentionSizes& sizes, void* workspace,
                      Stream stream) {
    check_attention(sizes);
    if (sizes.sequences != 1 || sizes.length < 1) {
        throw std::invalid_argument("attention_decode: one sequence of at least one token");
    }
    const DecodeParts cut(sizes);
    auto* const statistics = static_cast<float*>(workspace);
    const DecodeArguments<T> a{.out = out,
                               .partial = statistics + static_cast<std::int64_t>(cut.parts) * sizes.heads * 2,
                               .statistics = statistics,
                               .q = q,
                               .keys = keys,
                               .values = values,
                               .length = static_cast<int>(sizes.length),
                               .heads = static_cast<int>(sizes.heads),
                               .kv_heads = static_cast<int>(sizes.kv_heads),
                               .head_dim = static_cast<int>(sizes.head_dim),
                               .scale = attention_scale(sizes),
                               .cut = cut,
                               .cap = sizes.cap};
    start_decode(a, stream);
    if (cut.parts == 1) return;
    launch(attention_combine_kernel<T>, static_cast<unsigned>(a.heads), combine_threads,
           static_cast<std::size_t>(cut.parts) * sizeof(float), stream, a);
}

std::size_t attention_decode_workspace(const AttentionSizes& sizes) {
    check_attention(sizes);
    return static_cast<std::size_t>(DecodeParts::most_parts(sizes) * sizes.heads * (sizes.head_dim + 2)) *
           sizeof(float);
}

template void attention_decode(float*, const float*, const float*, const float*, const AttentionSizes&, void*, Stream);
template void attention_decode(bf16*, const bf16*, const bf16*, const bf16*, const AttentionSizes&, void*, Stream);

}  // namespace pvtune::cuda
