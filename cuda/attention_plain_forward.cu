// out = softmax(q k^T / sqrt(head_dim)) v, causal, with an online softmax; see attention_plain.h for who calls it. A
// warp has one query: lane j the score of the j-th key of a tile, then every lane its elements of the result.

#include "cuda/attention_plain.cuh"

namespace pvtune::cuda {

namespace {

template <class T>
__global__ void plain_attention_forward_kernel(T* out, float* log_sum_exp, const T* q, const T* k, const T* v,
                                               PlainShape shape) {
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
    float* const weights = queries + plain_warps * stride + warp * warp_size;
    load_plain(queries, HeadRows(q, sequence, head, shape.heads, shape), first_query, plain_warps, shape);

    float largest = -INFINITY;
    float sum = 0;
    float result[plain_elements] = {};
    const int last_query = min(first_query + plain_warps, shape.length) - 1;
    for (int first = max(0, first_query - shape.window + 1); first <= last_query; first += warp_size) {
        __syncthreads();
        load_plain(keys, HeadRows(k, sequence, kv_head, shape.kv_heads, shape), first, warp_size, shape);
        load_plain(values, HeadRows(v, sequence, kv_head, shape.kv_heads, shape), first, warp_size, shape);
        __syncthreads();
        const int key = first + lane;
        const bool visible = key <= query && key > query - shape.window;
        const float product = plain_dot(queries + warp * stride, keys + lane * stride, shape.head_dim);
        const float score = visible ? plain_score(product, shape) : -INFINITY;
        const float top = fmaxf(largest, warp_max(score));
        const float weight = visible ? expf(score - top) : 0.0F;
        const float shrink = largest == top ? 1.0F : expf(largest - top);  // both -inf: no key yet
        sum = sum * shrink + warp_sum(weight);
        largest = top;
        weights[lane] = weight;
        __syncwarp();
        for (float& element : result) element *= shrink;
        add_weighted(result, weights, values, shape.head_dim);
        __syncwarp();
    }
    if (query >= shape.length) return;
    store_plain(HeadRows(out, sequence, head, shape.heads, shape).row(query), result, 1.0F / sum, shape.head_dim);
    if (lane == 0) {
        log_sum_exp[(static_cast<std::int64_t>(head) * shape.sequences + sequence) * shape.length + query] =
            largest + logf(sum);
    }
}

}  // namespace

template <class T>
void plain_attention_forward(T* out, float* log_sum_exp, const T* q, const T* k, const T* v,
                             const AttentionSizes& sizes, Stream stream) {
    const PlainShape shape = plain_shape(sizes);
    const auto rows = static_cast<std::size_t>(2 * warp_size + plain_warps);
    const std::size_t shared_bytes =
        (rows * static_cast<std::size_t>(plain_stride(shape.head_dim)) + plain_threads) * sizeof(float);
    launch(plain_attention_forward_kernel<T>, static_cast<unsigned>(shape.blocks * shape.heads * shape.sequences),
           plain_threads, shared_bytes, stream, out, log_sum_exp, q, k, v, shape);
}

template void plain_attention_forward(float*, float*, const float*, const float*, const float*, const AttentionSizes&,
                                      Stream);
template void plain_attention_forward(bf16*, float*, const bf16*, const bf16*, const bf16*, const AttentionSizes&,
                                      Stream);

}  // namespace pvtune::cuda
