#pragma once

// Tiles of rows [tokens, head_dim] in shared memory, and the fragments of mma.m16n8k16 that the attention kernels cut
// from them.

#include "cuda/async_copy.cuh"
#include "cuda/attention_sizes.h"
#include "cuda/device.cuh"
#include "cuda/fast_math.cuh"
#include "cuda/mma.cuh"

namespace pvtune::cuda {

inline constexpr float log2_e = 1.4426950408889634F;

/// What capped scores are multiplied by for capped_share().
inline float share_factor(const AttentionSizes& sizes) {
    return sizes.cap > 0 ? 2.0F * log2_e * attention_scale(sizes) / sizes.cap : 0.0F;
}

/// tanh y for x = 2 log2(e) y, to 2^-22: what a capped score is of its cap. As an absolute error that is beyond what
/// bf16 keeps of weights for any cap below some thousands; tanhf would take more instructions than the rest of the
/// softmax.
__device__ inline float capped_share(float x) { return fmaf(-2.0F, reciprocal_fast(exp2_fast(x) + 1.0F), 1.0F); }

/// Elements in 16 bytes of bf16, the unit of copies and of a row of ldmatrix.
inline constexpr int chunk = 8;

/// A bf16 tile in shared memory. The place of a 16-byte chunk in its row is XORed with bits of the row number, so that
/// the chunks of one column in eight successive rows lie in different banks.
template <int columns>
struct SharedTile {
    static constexpr int chunks = columns / chunk;
    static_assert(columns % 16 == 0);
    bf16* data;

    __device__ static unsigned swizzle(unsigned row) {
        if constexpr (chunks % 8 == 0) return row % 8;
        if constexpr (chunks % 8 == 4) return row / 2 % 4;
        return row / 4 % 2;
    }
    __device__ bf16* at(unsigned row, unsigned which_chunk) const {
        return data + row * columns + (which_chunk ^ swizzle(row)) * chunk;
    }
};

/// One lane's view of a tile as an operand of products of 16 x 16 squares. A left operand has the result's rows along
/// its own rows, a right one the result's columns; turned, they lie along its columns, and the sum runs down its rows.
template <int columns, bool left, bool turned>
struct Operand {
    // ldmatrix.x4 gives four 8 x 8 matrices, in the order (0,0) (8,0) (0,8) (8,8) if straight, otherwise (0,0) (0,8)
    // (8,0) (8,8): what mma.m16n8k16 wants of a left operand, and of two right ones.
    static constexpr bool straight = left != turned;
    const unsigned char* row;
    unsigned own_bytes;    ///< of the lane's chunk in its row
    unsigned first_bytes;  ///< of the first column

    __device__ Operand(SharedTile<columns> tile, int first_row, int first_column) {
        const unsigned lane = kept_in_loop(threadIdx.x) % warp_size;
        const unsigned lane_row = straight ? lane % 16 : lane / 16 * 8 + lane % 8;
        const unsigned lane_chunk = straight ? lane / 16 : lane / 8 % 2;
        row = reinterpret_cast<const unsigned char*>(tile.data + first_row * columns) +
              kept_in_loop(lane_row * columns * static_cast<unsigned>(sizeof(bf16)));
        own_bytes = (lane_chunk ^ SharedTile<columns>::swizzle(lane_row)) * 16;
        first_bytes = static_cast<unsigned>(first_column) * static_cast<unsigned>(sizeof(bf16));
    }
    /// The square at 16 `across` in the result and 16 `along` in the sum.
    __device__ void load(std::uint32_t (&fragment)[4], int across, int along) const {
        const int i = turned ? along : across;
        const auto j_bytes = static_cast<unsigned>(32 * (turned ? across : along));
        // Parts of a row whose width is a power of two begin at multiples of it: one three-way bit operation.
        const bool power_of_two = (columns & (columns - 1)) == 0;
        const unsigned column_bytes = (power_of_two ? j_bytes | first_bytes : j_bytes + first_bytes) ^ own_bytes;
        const unsigned char* from = row + i * 16 * columns * static_cast<int>(sizeof(bf16)) + column_bytes;
        if constexpr (turned) {
            load_matrices_transposed(fragment, from);
        } else {
            load_matrices(fragment, from);
        }
    }
};

/// d0, d1 (16 x 8 each) += a (16 x 16) times the two halves of b.
__device__ inline void multiply_square(float (&d0)[4], float (&d1)[4], const std::uint32_t (&a)[4],
                                       const std::uint32_t (&b)[4]) {
    const std::uint32_t low[2] = {b[0], b[1]};
    const std::uint32_t high[2] = {b[2], b[3]};
    mma_bf16(d0, a, low);
    mma_bf16(d1, a, high);
}

/// sums += left right, over `length` elements of the sum; sums [16 bands x 8 columns of 8], as mma scatters them.
template <int length, int bands, int eights, class Left, class Right>
__device__ inline void multiply_tiles(float (&sums)[bands][eights][4], const Left& left, const Right& right) {
    static_assert(eights % 2 == 0 && length % 16 == 0);
#pragma unroll
    for (int along = 0; along < length / 16; ++along) {
        std::uint32_t a[bands][4];
#pragma unroll
        for (int band = 0; band < bands; ++band) left.load(a[band], band, along);
#pragma unroll
        for (int pair = 0; pair < eights / 2; ++pair) {
            std::uint32_t b[4];
            right.load(b, pair, along);
#pragma unroll
            for (int band = 0; band < bands; ++band) {
                multiply_square(sums[band][2 * pair], sums[band][2 * pair + 1], a[band], b);
            }
        }
    }
}

/// The part of one thread in copying tiles of `rows` rows of one head, by a block of `threads`. Rows from `present` on
/// and columns from head_dim on become zero.
template <int rows, int columns, int threads>
struct TileCopy {
    static constexpr unsigned chunks = SharedTile<columns>::chunks;
    static constexpr unsigned pieces = ceil_divide(rows * chunks, threads);
    static constexpr bool in_columns = threads % chunks == 0;  ///< a thread stays in its column of chunks

    __device__ static void start(SharedTile<columns> tile, const bf16* from, int stride, int present, int head_dim) {
        const unsigned thread = kept_in_loop(threadIdx.x);
        if constexpr (in_columns) {
            constexpr unsigned step = threads / chunks;
            const unsigned own_chunk = thread % chunks;
            // A pointer that moves on keeps fewer registers busy than one offset a piece.
            const bf16* piece = from + static_cast<int>(thread / chunks) * stride + own_chunk * chunk;
            const int inside = static_cast<int>(own_chunk * chunk) < head_dim ? present : 0;
#pragma unroll
            for (unsigned i = 0; i < pieces; ++i, piece += static_cast<int>(step) * stride) {
                const unsigned row = thread / chunks + i * step;
                if (rows % step != 0 && row >= rows) break;
                const bool read = static_cast<int>(row) < inside;
                async_copy_16(tile.at(row, own_chunk), read ? piece : from, read ? 16 : 0);
            }
        } else {
#pragma unroll
            for (unsigned i = 0; i < pieces; ++i) {
                const unsigned index = i * threads + thread;
                const int row = static_cast<int>(index / chunks);
                const int column = static_cast<int>(index % chunks) * chunk;
                if (rows * chunks % threads != 0 && row >= rows) break;
                const bool read = row < present && column < head_dim;
                async_copy_16(tile.at(index / chunks, index % chunks), from + (read ? row * stride + column : 0),
                              read ? 16 : 0);
            }
        }
    }
};

/// Where in the tensors a block works.
struct HeadPlace {
    int block;  ///< counted from the heaviest
    int sequence;
    int head;
};

__device__ inline HeadPlace place_of(const BlockOrder& order, int index, int heads) {
    const int group_size = order.heads_at_once * order.blocks_a_head;
    const int first_head = index / group_size * order.heads_at_once;
    const int group_heads = min(order.heads_at_once, order.heads - first_head);
    const int head = first_head + index % group_size % group_heads;
    return {index % group_size / group_heads, head / heads, head % heads};
}

}  // namespace pvtune::cuda
