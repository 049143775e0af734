#pragma once

// What the attention launchers agree on before a kernel starts: which shapes are covered, which tile width a head is
// padded to, how work is put in order.

#include "cuda/device_limits.h"
#include "cuda/kernels.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace pvtune::cuda {

/// Throws std::invalid_argument for a shape that no attention kernel covers.
inline void check_attention(const AttentionSizes& sizes) {
    const auto refuse = [](const char* what) { throw std::invalid_argument(std::string("attention: ") + what); };
    if (sizes.sequences < 0 || sizes.length < 0) refuse("a negative number of tokens");
    if (sizes.kv_heads < 1 || sizes.heads < 1 || sizes.heads % sizes.kv_heads != 0) {
        refuse("heads must be a multiple of kv_heads");
    }
    if (sizes.head_dim < 2 || sizes.head_dim > 256 || sizes.head_dim % 2 != 0) {
        refuse("head_dim must be even, from 2 to 256");
    }
    if (sizes.window < 0) refuse("a negative window");
    if (!(sizes.cap >= 0 && sizes.cap < INFINITY)) refuse("a cap that is negative or not finite");
    // Rows, tiles and offsets inside a tile are 32-bit numbers.
    if (sizes.heads * sizes.head_dim > (1 << 23)) refuse("a row too long");
    constexpr std::int64_t most_rows = std::int64_t{1} << 30;
    if (sizes.length >= most_rows ||
        sizes.sequences >= most_rows / sizes.heads / std::max<std::int64_t>(1, sizes.length)) {
        refuse("more than 2^30 rows of q");
    }
}

/// Whether rows can be read in pieces of 16 bytes, as the tensor-core kernels do.
inline bool has_vector_rows(const AttentionSizes& sizes) { return sizes.head_dim % 8 == 0; }

/// head_dim as the tensor-core kernels see it: the columns beyond head_dim are zero.
inline std::int64_t tile_width(const AttentionSizes& sizes) {
    return sizes.head_dim <= 64 ? 64 : sizes.head_dim <= 96 ? 96 : sizes.head_dim <= 128 ? 128 : 256;
}

/// The number of tokens a token sees at most; no window is one of the whole sequence.
inline int visible_tokens(const AttentionSizes& sizes) {
    return static_cast<int>(sizes.window == 0 ? sizes.length : std::min(sizes.window, sizes.length));
}

inline float attention_scale(const AttentionSizes& sizes) {
    return 1.0F / std::sqrt(static_cast<float>(sizes.head_dim));
}

/// Blocks in the order in which they should start: the longest first, so that the short ones fill the end; but only as
/// many heads at a time as leave their operands in the L2 cache for the blocks that share them.
struct BlockOrder {
    int heads = 0;          ///< over all sequences
    int heads_at_once = 1;  ///< of which L2 holds the operands
    int blocks_a_head = 0;

    BlockOrder() = default;
    BlockOrder(std::int64_t head_count, std::int64_t bytes_a_head, std::int64_t blocks)
        : heads(static_cast<int>(head_count)), blocks_a_head(static_cast<int>(blocks)) {
        constexpr std::int64_t cache_bytes = 24 << 20;  // half of an H100's L2; the rest for what streams through
        heads_at_once = static_cast<int>(std::clamp<std::int64_t>(cache_bytes / bytes_a_head, 1, head_count));
    }
    unsigned count() const { return static_cast<unsigned>(heads) * static_cast<unsigned>(blocks_a_head); }
};

}  // namespace pvtune::cuda
