#include "cuda/async_copy.cuh"
#include "cuda/mma.cuh"
#include "cuda/reduce.cuh"
#include "tests/cuda/wrapper_kernels.h"

namespace pvtune::cuda::wrappers {
namespace {

__global__ void multiply_kernel(float* d, const std::uint32_t* a, const std::uint32_t* b) {
    const unsigned lane = threadIdx.x;
    float sums[4];
    std::uint32_t left[4];
    std::uint32_t right[2];
    for (int i = 0; i < 4; ++i) sums[i] = d[4 * lane + i];
    for (int i = 0; i < 4; ++i) left[i] = a[4 * lane + i];
    for (int i = 0; i < 2; ++i) right[i] = b[2 * lane + i];
    mma_bf16(sums, left, right);
    for (int i = 0; i < 4; ++i) d[4 * lane + i] = sums[i];
}

__global__ void load_kernel(std::uint32_t* fragments, const std::uint16_t* matrices, bool transposed) {
    constexpr int stride = 24;  // rows lie apart and at multiples of 16 bytes
    __shared__ __align__(16) std::uint16_t rows[warp_size * stride];
    const unsigned lane = threadIdx.x;
    for (int i = 0; i < 8; ++i) rows[lane * stride + i] = matrices[lane * 8 + i];
    __syncwarp();
    std::uint32_t mine[4];
    if (transposed) {
        load_matrices_transposed(mine, rows + lane * stride);
    } else {
        load_matrices(mine, rows + lane * stride);
    }
    for (int i = 0; i < 4; ++i) fragments[4 * lane + i] = mine[i];
}

__global__ void pack_kernel(std::uint32_t* packed, const float* low, const float* high) {
    packed[threadIdx.x] = pack_bf16(low[threadIdx.x], high[threadIdx.x]);
}

__global__ void copy_kernel(std::uint32_t* out, const std::uint32_t* in, const std::int32_t* valid) {
    __shared__ __align__(16) std::uint32_t stages[3][warp_size][4];
    const unsigned lane = threadIdx.x;
    for (int i = 0; i < 4; ++i) {
        for (auto& stage : stages) stage[lane][i] = 7;
    }
    // Group 0 brings nothing that is used, group 1 the data, group 2 stays under way.
    for (auto& stage : stages) {
        async_copy_16(stage[lane], in + 4 * lane, valid[lane]);
        async_commit();
    }
    async_wait<1>();
    for (int i = 0; i < 4; ++i) out[4 * lane + i] = stages[1][lane][i];
    async_wait<0>();
}

__global__ void dynamic_shared_kernel(std::uint32_t* last, std::uint32_t count) {
    auto* values = dynamic_shared<std::uint32_t>();
    for (std::uint32_t i = threadIdx.x; i < count; i += blockDim.x) values[i] = i;
    __syncthreads();
    if (threadIdx.x == 0) *last = values[count - 1];
}

__global__ void shuffle_kernel(std::uint32_t* out, const std::uint32_t* in, int offset, int width) {
    const unsigned lane = threadIdx.x;
    const std::uint32_t value = in[lane];
    out[by_index * warp_size + lane] = __shfl_sync(whole_warp, value, offset, width);
    out[up * warp_size + lane] = __shfl_up_sync(whole_warp, value, offset, width);
    out[down * warp_size + lane] = __shfl_down_sync(whole_warp, value, offset, width);
    out[exclusive_or * warp_size + lane] = __shfl_xor_sync(whole_warp, value, offset, width);
}

__global__ void vote_kernel(std::uint32_t* out, const std::uint32_t* in) {
    const unsigned lane = threadIdx.x;
    const std::uint32_t value = in[lane];
    const auto put = [&](VoteCase which, std::uint32_t result) { out[which * warp_size + lane] = result; };
    const bool odd = value % 2 != 0;
    put(ballot, __ballot_sync(whole_warp, odd));
    put(any, __any_sync(whole_warp, odd) != 0);
    put(all, __all_sync(whole_warp, odd) != 0);
    put(match, __match_any_sync(whole_warp, value));
    put(sum, __reduce_add_sync(whole_warp, value));
    put(smallest, __reduce_min_sync(whole_warp, value));
    put(largest, __reduce_max_sync(whole_warp, value));
    put(bits_and, __reduce_and_sync(whole_warp, value));
    put(bits_or, __reduce_or_sync(whole_warp, value));
    put(bits_xor, __reduce_xor_sync(whole_warp, value));
    put(signed_smallest, static_cast<std::uint32_t>(__reduce_min_sync(whole_warp, static_cast<int>(value))));
}

__global__ void convert_kernel(std::int32_t* out, std::int64_t* wide, const float* in, std::int64_t count) {
    const std::int64_t i = threadIdx.x;
    if (i >= count) return;
    out[to_int_nearest * count + i] = __float2int_rn(in[i]);
    out[to_int_down * count + i] = __float2int_rd(in[i]);
    out[to_int_up * count + i] = __float2int_ru(in[i]);
    out[to_int_zero * count + i] = __float2int_rz(in[i]);
    out[to_unsigned_nearest * count + i] = static_cast<std::int32_t>(__float2uint_rn(in[i]));
    wide[i] = __float2ll_rn(in[i]);
    wide[count + i] = __double2ll_rn(static_cast<double>(in[i]) * 1e3);
}

__global__ void bit_kernel(std::uint32_t* out, const std::uint32_t* in, std::int64_t count) {
    const std::int64_t i = threadIdx.x;
    if (i >= count) return;
    const std::uint32_t value = in[i];
    out[ones * count + i] = static_cast<std::uint32_t>(__popc(value));
    out[leading_zeros * count + i] = static_cast<std::uint32_t>(__clz(static_cast<int>(value)));
    out[first_set * count + i] = static_cast<std::uint32_t>(__ffs(static_cast<int>(value)));
    out[reversed * count + i] = __brev(value);
    out[permuted * count + i] = __byte_perm(value, 0x76543210U, 0x7412U);
    out[shifted_left * count + i] = __funnelshift_l(value, 0x76543210U, 12);
    out[shifted_right * count + i] = __funnelshift_r(value, 0x76543210U, 12);
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), Stream stream, Arguments... arguments) {
    launch(kernel, dim3(1), dim3(warp_size), 0, stream, arguments...);
}

}  // namespace

void multiply_fragments(float* d, const std::uint32_t* a, const std::uint32_t* b, Stream stream) {
    run(multiply_kernel, stream, d, a, b);
}
void load_fragments(std::uint32_t* fragments, const std::uint16_t* matrices, bool transposed, Stream stream) {
    run(load_kernel, stream, fragments, matrices, transposed);
}
void pack(std::uint32_t* packed, const float* low, const float* high, Stream stream) {
    run(pack_kernel, stream, packed, low, high);
}
void copy_asynchronously(std::uint32_t* out, const std::uint32_t* in, const std::int32_t* valid, Stream stream) {
    run(copy_kernel, stream, out, in, valid);
}
void use_dynamic_shared(std::uint32_t* last, std::size_t bytes, Stream stream) {
    launch(dynamic_shared_kernel, dim3(1), dim3(warp_size), bytes, stream, last,
           static_cast<std::uint32_t>(bytes / sizeof(std::uint32_t)));
}
void shuffle(std::uint32_t* out, const std::uint32_t* in, int offset, int width, Stream stream) {
    run(shuffle_kernel, stream, out, in, offset, width);
}
void vote(std::uint32_t* out, const std::uint32_t* in, Stream stream) { run(vote_kernel, stream, out, in); }
void convert_to_integers(std::int32_t* out, std::int64_t* wide, const float* in, std::int64_t count, Stream stream) {
    run(convert_kernel, stream, out, wide, in, count);
}
void count_bits(std::uint32_t* out, const std::uint32_t* in, std::int64_t count, Stream stream) {
    run(bit_kernel, stream, out, in, count);
}

}  // namespace pvtune::cuda::wrappers
