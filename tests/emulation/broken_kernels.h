#pragma once

#include "cuda/kernels.h"

/// Kernels with one fault each, for the emulator's own tests.
namespace pvtune::cuda::broken {

inline constexpr int threads = 64;

/// out[i] = in[(i + 1) % threads], by way of shared memory and without the barrier between its two sides.
void rotate_without_barrier(float* out, const float* in, Stream stream);
/// The same with __syncwarp where __syncthreads is needed.
void rotate_with_warp_barrier(float* out, const float* in, Stream stream);
/// Correct: lanes of a warp exchange through shared memory around __syncwarp.
void rotate_in_warps(float* out, const float* in, Stream stream);
/// The same with a shuffle in place of the first __syncwarp, which orders no memory.
void rotate_after_shuffle(float* out, const float* in, Stream stream);
/// A barrier at the end of a loop is missing: the next turn's writes meet the last one's reads.
void reuse_without_barrier(float* out, const float* in, Stream stream);

/// out[i] = in[i] through async_copy_16, with and without the wait.
void copy_with_wait(float* out, const float* in, Stream stream);
void copy_without_wait(float* out, const float* in, Stream stream);
/// Waits, but lets the other threads read without a barrier.
void copy_without_barrier(float* out, const float* in, Stream stream);

/// Odd threads come to one barrier, even threads to another.
void diverge_at_barrier(Stream stream);
/// Half of the threads wait at a barrier for lanes that wait in a shuffle.
void barrier_against_shuffle(Stream stream);
/// Lane 7 has returned when the others shuffle.
void shuffle_with_gone_lane(Stream stream);
/// Lane 7 returns while the others wait for it.
void leave_a_shuffle(Stream stream);
/// A block of 40 threads and a full mask.
void shuffle_in_part_of_a_warp(Stream stream);
/// Two halves of a warp with masks that name all lanes, and only their own.
void mismatch_masks(Stream stream);
void mismatch_operations(Stream stream);
void mask_without_own_lane(Stream stream);

/// out[i] = shared[i + 1] where nothing was written, static and dynamic.
void read_fresh_static(float* out, Stream stream);
void read_fresh_dynamic(float* out, Stream stream);

/// Writes one element beyond: of static shared, dynamic shared and device memory.
void write_beyond_static(float* out, int index, Stream stream);
void write_beyond_dynamic(int index, Stream stream);
/// Static shared memory beside dynamic one, more than launch() asks a device for.
void keep_much_beside_dynamic(Stream stream);
void write_at(float* out, int index, Stream stream);
/// A 16-byte load from an address that is a multiple of 4.
void load_misaligned(float* out, const float* in, Stream stream);

/// An empty kernel.
void launch_shape(unsigned blocks, unsigned block_threads, std::size_t shared_bytes, Stream stream);

/// sum[0] += 1 by one thread of every block, without and with an atomic operation.
void count_blocks(unsigned* sum, bool atomic, Stream stream);
/// The block that comes last adds up what all have written; with and without __threadfence.
void sum_in_last_block(float* sum, float* partials, unsigned* counter, bool fence, Stream stream);

}  // namespace pvtune::cuda::broken
