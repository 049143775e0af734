// Before the backward pass of attention: the bound of d_q that its fixed point rests on, and the statistics of every
// query (attention_backward.cuh). One pass over k and v, one over d_out and out.

#include "cuda/attention_backward.cuh"
#include "cuda/attention_tiles.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int threads = 256;
constexpr int rows_a_block = statistics_rows;

struct PrepareArguments {
    int sequences, length, heads, kv_heads, head_dim, padded_length;
};

/// Rows of one head that a block reads: each by `lanes` threads, a power of 2, with 8 elements a thread.
template <int lanes>
struct BlockRows {
    static constexpr int at_once = threads / lanes;
    /// Rows of which a thread has both loads under way at once.
    static constexpr int batch = rows_a_block / at_once < 4 ? rows_a_block / at_once : 4;
    static constexpr int batches = rows_a_block / at_once / batch;
    static_assert(rows_a_block % (at_once * batch) == 0);

    int sequence, head, heads, first, length, head_dim;

    __device__ int row(int which_batch, int i) const {
        return first + (which_batch * batch + i) * at_once + static_cast<int>(threadIdx.x) / lanes;
    }
    __device__ static int column() { return static_cast<int>(threadIdx.x) % lanes * lanes_of<bf16>; }

    /// Elements of tensors a and b [tokens, heads, head_dim]: zero beyond the sequence and beyond head_dim, where the
    /// last ones are read again, for a branch would make each load wait for the one before it.
    __device__ void load(float (&a_elements)[batch][lanes_of<bf16>], float (&b_elements)[batch][lanes_of<bf16>],
                         const bf16* a, const bf16* b, int which_batch) const {
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const std::int64_t token =
                static_cast<std::int64_t>(sequence) * length + min(row(which_batch, i), length - 1);
            const std::int64_t at = (token * heads + head) * head_dim + min(column(), head_dim - lanes_of<bf16>);
            load_lanes(a_elements[i], a + at);
            load_lanes(b_elements[i], b + at);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const bool inside = row(which_batch, i) < length && column() < head_dim;
#pragma unroll
            for (int e = 0; e < lanes_of<bf16>; ++e) {
                a_elements[i][e] = inside ? a_elements[i][e] : 0.0F;
                b_elements[i][e] = inside ? b_elements[i][e] : 0.0F;
            }
        }
    }
};

/// The sum over `lanes` neighbours.
template <int lanes>
__device__ inline float group_sum(float value) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(whole_warp, value, offset);
    return value;
}

/// The length of the vector that `lanes` neighbours hold, for elements of any magnitude: they are squared relative to
/// the power of 2 below the largest, for their own squares may not be f32.
template <int lanes>
__device__ inline float group_length(const float (&elements)[lanes_of<bf16>]) {
    float largest = 0;
#pragma unroll
    for (int e = 0; e < lanes_of<bf16>; ++e) largest = fmaxf(largest, fabsf(elements[e]));
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(whole_warp, largest, offset));
    }
    // Biased exponents for which the power and its inverse are normal numbers.
    const int exponent = min(max(__float_as_int(largest) >> 23, 1), 253);
    const float inverse = __int_as_float((254 - exponent) << 23);
    float squares = 0;
#pragma unroll
    for (int e = 0; e < lanes_of<bf16>; ++e) {
        squares = fmaf(elements[e] * inverse, elements[e] * inverse, squares);
    }
    return sqrtf(group_sum<lanes>(squares)) * __int_as_float(exponent << 23);
}

/// As an integer, so that a NaN, of either sign, is larger than every number.
__device__ inline int magnitude_bits(float value) { return __float_as_int(value) & 0x7fffffff; }

template <int lanes>
__global__ void __launch_bounds__(threads)
    attention_bounds_kernel(int* bounds, const bf16* k, const bf16* v, PrepareArguments a) {
    const int blocks = (a.length + rows_a_block - 1) / rows_a_block;
    const int head = static_cast<int>(blockIdx.x) / blocks;
    const int first = static_cast<int>(blockIdx.x) % blocks * rows_a_block;
    const BlockRows<lanes> rows{head / a.kv_heads, head % a.kv_heads, a.kv_heads, first, a.length, a.head_dim};
    int largest_value = 0;
    int largest_key = 0;
    for (int batch = 0; batch < rows.batches; ++batch) {
        float keys[rows.batch][lanes_of<bf16>];
        float values[rows.batch][lanes_of<bf16>];
        rows.load(keys, values, k, v, batch);
#pragma unroll
        for (int i = 0; i < rows.batch; ++i) {
#pragma unroll
            for (int e = 0; e < lanes_of<bf16>; ++e) largest_key = max(largest_key, magnitude_bits(keys[i][e]));
            largest_value = max(largest_value, magnitude_bits(group_length<lanes>(values[i])));
        }
    }
    for (int offset = warp_size / 2; offset > 0; offset /= 2) {
        largest_value = max(largest_value, __shfl_xor_sync(whole_warp, largest_value, offset));
        largest_key = max(largest_key, __shfl_xor_sync(whole_warp, largest_key, offset));
    }
    if (threadIdx.x % warp_size != 0) return;
    atomicMax(bounds + 2 * head, largest_value);
    atomicMax(bounds + 2 * head + 1, largest_key);
}

/// 1 / unit: the power of 2 for which bound / unit is in (2^29, 2^30], as far as f32 has it.
__device__ inline float inverse_unit(float bound) {
    if (bound == 0.0F) return 0.0F;
    if (!(bound < INFINITY)) return NAN;
    const int exponent = max((__float_as_int(bound) >> 23) - 126, -96);  // bound < 2^exponent
    return __int_as_float((30 - exponent + 127) << 23);
}

template <int lanes>
__global__ void __launch_bounds__(threads)
    attention_statistics_kernel(float* statistics, const int* bounds, const bf16* d_out, const bf16* out,
                                const float* log_sum_exp, PrepareArguments a) {
    const int blocks = a.padded_length / rows_a_block;
    const int head = static_cast<int>(blockIdx.x) / blocks;
    const int first = static_cast<int>(blockIdx.x) % blocks * rows_a_block;
    const int sequence = head / a.heads;
    const int kv_head = sequence * a.kv_heads + head % a.heads / (a.heads / a.kv_heads);
    const BlockRows<lanes> rows{sequence, head % a.heads, a.heads, first, a.length, a.head_dim};
    const std::int64_t stride = static_cast<std::int64_t>(a.sequences) * a.heads * a.padded_length;
    const float* const log_sums =
        log_sum_exp + (static_cast<std::int64_t>(head % a.heads) * a.sequences + sequence) * a.length;
    const float key_bound = 2.0F * __int_as_float(bounds[2 * kv_head]) * __int_as_float(bounds[2 * kv_head + 1]);
    for (int batch = 0; batch < rows.batches; ++batch) {
        float gradients[rows.batch][lanes_of<bf16>];
        float results[rows.batch][lanes_of<bf16>];
        float shifts[rows.batch];
#pragma unroll
        for (int i = 0; i < rows.batch; ++i) {
            const float log_sum = log_sums[min(rows.row(batch, i), a.length - 1)];
            shifts[i] = rows.row(batch, i) < a.length ? -log_sum * log2_e : -INFINITY;
        }
        rows.load(gradients, results, d_out, out, batch);
#pragma unroll
        for (int i = 0; i < rows.batch; ++i) {
            float delta = 0;
#pragma unroll
            for (int e = 0; e < lanes_of<bf16>; ++e) delta = fmaf(gradients[i][e], results[i][e], delta);
            delta = group_sum<lanes>(delta);
            const float gradient_length = group_length<lanes>(gradients[i]);
            if (rows.column() != 0) continue;
            float* const to = statistics + static_cast<std::int64_t>(head) * a.padded_length + rows.row(batch, i);
            to[shift_statistic * stride] = shifts[i];
            to[delta_statistic * stride] = -delta;
            to[unit_statistic * stride] = inverse_unit(gradient_length * key_bound);
        }
    }
}

template <int lanes>
void prepare(const BackwardWorkspace& workspace, const bf16* d_out, const bf16* out, const float* log_sum_exp,
             const bf16* k, const bf16* v, const PrepareArguments& a, Stream stream) {
    const auto key_blocks = static_cast<unsigned>(ceil_divide(a.length, rows_a_block) * a.sequences * a.kv_heads);
    const auto query_blocks = static_cast<unsigned>(a.padded_length / rows_a_block * a.sequences * a.heads);
    launch(attention_bounds_kernel<lanes>, key_blocks, threads, 0, stream, workspace.bounds, k, v, a);
    launch(attention_statistics_kernel<lanes>, query_blocks, threads, 0, stream, workspace.statistics, workspace.bounds,
           d_out, out, log_sum_exp, a);
}

}  // namespace

void prepare_attention_backward(const BackwardWorkspace& workspace, const bf16* d_out, const bf16* out,
                                const float* log_sum_exp, const bf16* k, const bf16* v, const AttentionSizes& sizes,
                                Stream stream) {
    check(cudaMemsetAsync(workspace.bounds, 0, workspace.zeroed_bytes, stream), "zeros for the gradient of q");
    const PrepareArguments a{static_cast<int>(sizes.sequences), static_cast<int>(sizes.length),
                             static_cast<int>(sizes.heads),     static_cast<int>(sizes.kv_heads),
                             static_cast<int>(sizes.head_dim),  static_cast<int>(workspace.padded_length(sizes))};
    if (tile_width(sizes) == 64) return prepare<8>(workspace, d_out, out, log_sum_exp, k, v, a, stream);
    if (tile_width(sizes) <= 128) return prepare<16>(workspace, d_out, out, log_sum_exp, k, v, a, stream);
    prepare<32>(workspace, d_out, out, log_sum_exp, k, v, a, stream);
}

}  // namespace pvtune::cuda
