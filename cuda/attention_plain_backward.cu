// Backward pass of attention without tensor cores; see attention_plain.h for who calls it.
//   p = exp(scale q.k - log_sum_exp), ds = p (d_out.v - delta), delta = d_out.out,
//   d_q = scale sum_j ds_j k_j, d_k = scale sum_i ds_i q_i, d_v = sum_i p_i d_out_i.
// A warp has one query (for d_q) or one key (for d_k and d_v), its lanes 32 rows of the other side.

#include "cuda/attention_plain.cuh"

namespace pvtune::cuda {

namespace {

template <class T>
struct BackwardTensors {
    const T *d_out, *out;
    const float* log_sum_exp;
    const T *q, *k, *v;
    const float* delta;  ///< [heads, tokens]
};

__device__ inline std::int64_t statistics_row(const PlainShape& shape, int sequence, int head) {
    return (static_cast<std::int64_t>(head) * shape.sequences + sequence) * shape.length;
}

template <class T>
__global__ void plain_attention_delta_kernel(float* delta, const T* d_out, const T* out, PlainShape shape) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int query =
        static_cast<int>(blockIdx.x) % shape.blocks * plain_warps + static_cast<int>(threadIdx.x) / warp_size;
    const int head = static_cast<int>(blockIdx.x) / shape.blocks % shape.heads;
    const int sequence = static_cast<int>(blockIdx.x) / shape.blocks / shape.heads;
    if (query >= shape.length) return;
    const T* gradients = HeadRows(d_out, sequence, head, shape.heads, shape).row(query);
    const T* results = HeadRows(out, sequence, head, shape.heads, shape).row(query);
    float sum = 0;
    for (int e = lane; e < shape.head_dim; e += warp_size)
        sum = fmaf(to_float(gradients[e]), to_float(results[e]), sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[statistics_row(shape, sequence, head) + query] = sum;
}

template <class T>
__global__ void plain_attention_d_q_kernel(T* d_q, BackwardTensors<T> t, PlainShape shape) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    const int first_query = static_cast<int>(blockIdx.x) % shape.blocks * plain_warps;
    const int head = static_cast<int>(blockIdx.x) / shape.blocks % shape.heads;
    const int sequence = static_cast<int>(blockIdx.x) / shape.blocks / shape.heads;
    const int kv_head = head / (shape.heads / shape.kv_heads);
    const int query = first_query + warp;

    const int stride = plain_stride(shape.head_dim);
    auto* const keys = dynamic_shared<float>();
    float* const values = keys + warp_size * stride;
    float* const queries = values + warp_size * stride;
    float* const d_outs = queries + plain_warps * stride;
    float* const d_scores = d_outs + plain_warps * stride + warp * warp_size;
    load_plain(queries, HeadRows(t.q, sequence, head, shape.heads, shape), first_query, plain_warps, shape);
    load_plain(d_outs, HeadRows(t.d_out, sequence, head, shape.heads, shape), first_query, plain_warps, shape);
    const std::int64_t statistics = statistics_row(shape, sequence, head) + query;
    const float log_sum_exp = query < shape.length ? t.log_sum_exp[statistics] : 0.0F;
    const float delta = query < shape.length ? t.delta[statistics] : 0.0F;

    float sums[plain_elements] = {};
    const int last_query = min(first_query + plain_warps, shape.length) - 1;
    for (int first = max(0, first_query - shape.window + 1); first <= last_query; first += warp_size) {
        __syncthreads();
        load_plain(keys, HeadRows(t.k, sequence, kv_head, shape.kv_heads, shape), first, warp_size, shape);
        load_plain(values, HeadRows(t.v, sequence, kv_head, shape.kv_heads, shape), first, warp_size, shape);
        __syncthreads();
        const int key = first + lane;
        const bool visible = key <= query && key > query - shape.window;
        const float score =
            plain_score(plain_dot(queries + warp * stride, keys + lane * stride, shape.head_dim), shape);
        const float d_weight = plain_dot(d_outs + warp * stride, values + lane * stride, shape.head_dim);
        d_scores[lane] = visible ? expf(score - log_sum_exp) * (d_weight - delta) * plain_slope(score, shape) : 0.0F;
        __syncwarp();
        add_weighted(sums, d_scores, keys, shape.head_dim);
        __syncwarp();
    }
    if (query >= shape.length) return;
    store_plain(HeadRows(d_q, sequence, head, shape.heads, shape).row(query), sums, shape.scale, shape.head_dim);
}

template <class T>
__global__ void plain_attention_d_kv_kernel(T* d_k, T* d_v, BackwardTensors<T> t, PlainShape shape) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    const int first_key = static_cast<int>(blockIdx.x) % shape.blocks * plain_warps;
    const int kv_head = static_cast<int>(blockIdx.x) / shape.blocks % shape.kv_heads;
    const int sequence = static_cast<int>(blockIdx.x) / shape.blocks / shape.kv_heads;
    const int share = shape.heads / shape.kv_heads;
    const int key = first_key + warp;

    const int stride = plain_stride(shape.head_dim);
    auto* const queries = dynamic_shared<float>();
    float* const d_outs = queries + warp_size * stride;
    float* const keys = d_outs + warp_size * stride;
    float* const values = keys + plain_warps * stride;
    float* const weights = values + plain_warps * stride + warp * warp_size;
    float* const d_scores = weights + plain_threads;
    load_plain(keys, HeadRows(t.k, sequence, kv_head, shape.kv_heads, shape), first_key, plain_warps, shape);
    load_plain(values, HeadRows(t.v, sequence, kv_head, shape.kv_heads, shape), first_key, plain_warps, shape);

    float d_key[plain_elements] = {};
    float d_value[plain_elements] = {};
    const auto end = static_cast<int>(min(static_cast<std::int64_t>(shape.length),
                                          static_cast<std::int64_t>(first_key) + plain_warps - 1 + shape.window));
    for (int head = kv_head * share; head < (kv_head + 1) * share; ++head) {
        for (int first = first_key; first < end; first += warp_size) {
            __syncthreads();
            load_plain(queries, HeadRows(t.q, sequence, head, shape.heads, shape), first, warp_size, shape);
            load_plain(d_outs, HeadRows(t.d_out, sequence, head, shape.heads, shape), first, warp_size, shape);
            __syncthreads();
            const int query = first + lane;
            const bool visible = query < shape.length && key <= query && key > query - shape.window;
            const std::int64_t statistics = statistics_row(shape, sequence, head) + query;
            const float score =
                plain_score(plain_dot(queries + lane * stride, keys + warp * stride, shape.head_dim), shape);
            const float d_weight = plain_dot(d_outs + lane * stride, values + warp * stride, shape.head_dim);
            const float weight = visible ? expf(score - t.log_sum_exp[statistics]) : 0.0F;
            weights[lane] = weight;
            d_scores[lane] = visible ? weight * (d_weight - t.delta[statistics]) * plain_slope(score, shape) : 0.0F;
            __syncwarp();
            add_weighted(d_value, weights, d_outs, shape.head_dim);
            add_weighted(d_key, d_scores, queries, shape.head_dim);
            __syncwarp();
        }
    }
    if (key >= shape.length) return;
    store_plain(HeadRows(d_k, sequence, kv_head, shape.kv_heads, shape).row(key), d_key, shape.scale, shape.head_dim);
    store_plain(HeadRows(d_v, sequence, kv_head, shape.kv_heads, shape).row(key), d_value, 1.0F, shape.head_dim);
}

}  // namespace

template <class T>
void plain_attention_backward(T* d_q, T* d_k, T* d_v, const T* d_out, const T* out, const float* log_sum_exp,
                              const T* q, const T* k, const T* v, const AttentionSizes& sizes, void* workspace,
                              Stream stream) {
    const PlainShape shape = plain_shape(sizes);
    auto* const delta = static_cast<float*>(workspace);
    const auto rows = static_cast<std::size_t>(2 * warp_size + 2 * plain_warps);
    const std::size_t shared_bytes =
        (rows * static_cast<std::size_t>(plain_stride(shape.head_dim)) + 2 * plain_threads) * sizeof(float);
    const auto query_blocks = static_cast<unsigned>(shape.blocks * shape.heads * shape.sequences);
    const auto key_blocks = static_cast<unsigned>(shape.blocks * shape.kv_heads * shape.sequences);
    const BackwardTensors<T> tensors{d_out, out, log_sum_exp, q, k, v, delta};
    launch(plain_attention_delta_kernel<T>, query_blocks, plain_threads, 0, stream, delta, d_out, out, shape);
    launch(plain_attention_d_q_kernel<T>, query_blocks, plain_threads, shared_bytes, stream, d_q, tensors, shape);
    launch(plain_attention_d_kv_kernel<T>, key_blocks, plain_threads, shared_bytes, stream, d_k, d_v, tensors, shape);
}

std::size_t plain_attention_backward_workspace(const AttentionSizes& sizes) {
    return static_cast<std::size_t>(sizes.sequences * sizes.length * sizes.heads) * sizeof(float);
}

template void plain_attention_backward(float*, float*, float*, const float*, const float*, const float*, const float*,
                                       const float*, const float*, const AttentionSizes&, void*, Stream);
template void plain_attention_backward(bf16*, bf16*, bf16*, const bf16*, const bf16*, const float*, const bf16*,
                                       const bf16*, const bf16*, const AttentionSizes&, void*, Stream);

}  // namespace pvtune::cuda
