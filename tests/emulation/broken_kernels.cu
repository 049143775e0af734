#include "cuda/async_copy.cuh"
#include "tests/emulation/broken_kernels.h"

namespace pvtune::cuda::broken {
namespace {

__global__ void rotate_without_barrier_kernel(float* out, const float* in) {
    __shared__ float values[threads];
    values[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = values[(threadIdx.x + 1) % threads];
}

__global__ void rotate_with_warp_barrier_kernel(float* out, const float* in) {
    __shared__ float values[threads];
    values[threadIdx.x] = in[threadIdx.x];
    __syncwarp();
    out[threadIdx.x] = values[(threadIdx.x + 1) % threads];
}

__global__ void rotate_in_warps_kernel(float* out, const float* in, bool shuffle) {
    __shared__ float values[threads];
    const unsigned first = threadIdx.x & ~31U;
    float value = in[threadIdx.x];
    for (int turn = 0; turn < 2; ++turn) {
        values[threadIdx.x] = value;
        if (shuffle) {
            __shfl_sync(whole_warp, value, 0);
        } else {
            __syncwarp();
        }
        value = values[first + (threadIdx.x + 1) % 32];
        __syncwarp();
    }
    out[threadIdx.x] = value;
}

__global__ void reuse_without_barrier_kernel(float* out, const float* in) {
    __shared__ float values[threads];
    float value = in[threadIdx.x];
    for (int turn = 0; turn < 3; ++turn) {
        values[threadIdx.x] = value;
        __syncthreads();
        value = values[(threadIdx.x + 1) % threads];
    }
    out[threadIdx.x] = value;
}

__global__ void copy_kernel(float* out, const float* in, bool wait, bool barrier) {
    __shared__ __align__(16) float values[threads];
    if (threadIdx.x < threads / 4) async_copy_16(values + 4 * threadIdx.x, in + 4 * threadIdx.x);
    async_commit();
    if (wait) async_wait<0>();
    if (barrier) __syncthreads();
    out[threadIdx.x] = values[threadIdx.x];
}

__global__ void diverge_at_barrier_kernel() {
    if (threadIdx.x % 2 == 0) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

__global__ void barrier_against_shuffle_kernel() {
    if (threadIdx.x % 2 == 0) {
        __syncthreads();
    } else {
        __shfl_xor_sync(whole_warp, 1.0F, 1);
    }
}

__global__ void shuffle_with_gone_lane_kernel(bool late) {
    if (threadIdx.x % 32 == 7) {
        if (late) __syncwarp(1U << 7);
        return;
    }
    if (!late) __syncwarp(~(1U << 7));
    __shfl_xor_sync(whole_warp, 1.0F, 1);
}

__global__ void shuffle_kernel() { __shfl_down_sync(whole_warp, 1.0F, 1); }

__global__ void mismatch_masks_kernel() {
    const unsigned mask = threadIdx.x % 32 < 16 ? 0x0000ffffU : whole_warp;
    __shfl_xor_sync(mask, 1.0F, 1);
}

__global__ void mismatch_operations_kernel() {
    if (threadIdx.x % 2 == 0) {
        __shfl_xor_sync(whole_warp, 1.0F, 1);
    } else {
        __ballot_sync(whole_warp, 1);
    }
}

__global__ void mask_without_own_lane_kernel() { __shfl_sync(0xfffffffeU, 1.0F, 1); }

__global__ void read_fresh_static_kernel(float* out) {
    __shared__ float values[threads + 1];
    values[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x + 1];
}

__global__ void read_fresh_dynamic_kernel(float* out) {
    auto* values = dynamic_shared<float>();
    values[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x + 1];
}

/// Through a pointer, so that no bound is known where the write is.
__device__ void __attribute__((noinline)) write_one(float* values, int index) { values[index] = 1; }

__global__ void write_beyond_static_kernel(float* out, int index) {
    __shared__ float values[threads];
    write_one(values, index);
    __syncthreads();
    out[0] = values[0];
}

__global__ void keep_much_beside_dynamic_kernel() {
    __shared__ float kept[5000];
    kept[threadIdx.x] = 1;
    __syncthreads();
    dynamic_shared<float>()[0] = kept[0];
}

__global__ void write_beyond_dynamic_kernel(int index) { write_one(dynamic_shared<float>(), index); }

__global__ void write_at_kernel(float* out, int index) { write_one(out, index); }

__global__ void load_misaligned_kernel(float* out, const float* in) {
    *reinterpret_cast<float4*>(out) = *reinterpret_cast<const float4*>(in);
}

__global__ void empty_kernel() {}

__global__ void count_blocks_kernel(unsigned* sum, bool atomic) {
    if (threadIdx.x != 0) return;
    if (atomic) {
        atomicAdd(sum, 1U);
    } else {
        *sum += 1;
    }
}

__global__ void sum_in_last_block_kernel(float* sum, float* partials, unsigned* counter, bool fence) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = 1;
        if (fence) __threadfence();
        last = atomicAdd(counter, 1U) + 1 == gridDim.x;
    }
    __syncthreads();
    if (!last || threadIdx.x != 0) return;
    float total = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) total += partials[i];
    *sum = total;
}

constexpr int blocks = 3;

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), Stream stream, Arguments... arguments) {
    launch(kernel, dim3(1), dim3(threads), 0, stream, arguments...);
}

}  // namespace

void rotate_without_barrier(float* out, const float* in, Stream stream) {
    run(rotate_without_barrier_kernel, stream, out, in);
}
void rotate_with_warp_barrier(float* out, const float* in, Stream stream) {
    run(rotate_with_warp_barrier_kernel, stream, out, in);
}
void rotate_in_warps(float* out, const float* in, Stream stream) {
    run(rotate_in_warps_kernel, stream, out, in, false);
}
void rotate_after_shuffle(float* out, const float* in, Stream stream) {
    run(rotate_in_warps_kernel, stream, out, in, true);
}
void reuse_without_barrier(float* out, const float* in, Stream stream) {
    run(reuse_without_barrier_kernel, stream, out, in);
}
void copy_with_wait(float* out, const float* in, Stream stream) { run(copy_kernel, stream, out, in, true, true); }
void copy_without_wait(float* out, const float* in, Stream stream) { run(copy_kernel, stream, out, in, false, true); }
void copy_without_barrier(float* out, const float* in, Stream stream) {
    run(copy_kernel, stream, out, in, true, false);
}
void diverge_at_barrier(Stream stream) { run(diverge_at_barrier_kernel, stream); }
void barrier_against_shuffle(Stream stream) { run(barrier_against_shuffle_kernel, stream); }
void shuffle_with_gone_lane(Stream stream) { run(shuffle_with_gone_lane_kernel, stream, false); }
void leave_a_shuffle(Stream stream) { run(shuffle_with_gone_lane_kernel, stream, true); }
void shuffle_in_part_of_a_warp(Stream stream) { launch(shuffle_kernel, dim3(1), dim3(40), 0, stream); }
void mismatch_masks(Stream stream) { run(mismatch_masks_kernel, stream); }
void mismatch_operations(Stream stream) { run(mismatch_operations_kernel, stream); }
void mask_without_own_lane(Stream stream) { run(mask_without_own_lane_kernel, stream); }
void read_fresh_static(float* out, Stream stream) { run(read_fresh_static_kernel, stream, out); }
void read_fresh_dynamic(float* out, Stream stream) {
    launch(read_fresh_dynamic_kernel, dim3(1), dim3(threads), (threads + 1) * sizeof(float), stream, out);
}
void write_beyond_static(float* out, int index, Stream stream) { run(write_beyond_static_kernel, stream, out, index); }
void keep_much_beside_dynamic(Stream stream) { launch(keep_much_beside_dynamic_kernel, dim3(1), dim3(1), 4, stream); }
void write_beyond_dynamic(int index, Stream stream) {
    launch(write_beyond_dynamic_kernel, dim3(1), dim3(1), threads * sizeof(float), stream, index);
}
void write_at(float* out, int index, Stream stream) { run(write_at_kernel, stream, out, index); }
void load_misaligned(float* out, const float* in, Stream stream) { run(load_misaligned_kernel, stream, out, in); }
void launch_shape(unsigned grid, unsigned block_threads, std::size_t shared_bytes, Stream stream) {
    launch(empty_kernel, dim3(grid), dim3(block_threads), shared_bytes, stream);
}
void count_blocks(unsigned* sum, bool atomic, Stream stream) {
    launch(count_blocks_kernel, dim3(blocks), dim3(threads), 0, stream, sum, atomic);
}
void sum_in_last_block(float* sum, float* partials, unsigned* counter, bool fence, Stream stream) {
    launch(sum_in_last_block_kernel, dim3(blocks), dim3(threads), 0, stream, sum, partials, counter, fence);
}

}  // namespace pvtune::cuda::broken
