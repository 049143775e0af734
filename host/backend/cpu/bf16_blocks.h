#pragma once

// The 32 x 32 block product of bf16 and its packing, for two units of recent x86 cores: the matrix unit (Intel AMX) and
// AVX-512's dot products of pairs (AVX512_BF16: AMD since Zen 4). One layout of panels serves both. Without either at
// compile time only block_unit() exists, and callers use the library's matrix product.

#include "io/dtype.h"

#include <cstdint>

namespace pvtune::cpu {

/// What multiplies blocks, from the slowest.
enum class BlockUnit { none, dots, tiles };

/// The fastest that this binary was built for and the machine grants; asks the kernel for AMX once.
BlockUnit block_unit();

/// While one lives nothing faster than `most` is used, so that tests reach the routes of other CPUs. Not for use inside
/// a parallel region.
class LimitBlockUnit {
public:
    explicit LimitBlockUnit(BlockUnit most);
    ~LimitBlockUnit();
    LimitBlockUnit(const LimitBlockUnit&) = delete;
    LimitBlockUnit& operator=(const LimitBlockUnit&) = delete;

private:
    BlockUnit before_;
};

#ifdef __AVX512BF16__

/// One tile is 16 rows of 64 bytes. A block of the product is 2 x 2 tiles of f32.
inline constexpr std::int64_t tile_rows = 16;
inline constexpr std::int64_t tile_depth = 32;    ///< bf16 elements of the inner dimension a tile row holds
inline constexpr std::int64_t block_extent = 32;  ///< rows and columns of a block
inline constexpr std::int64_t tile_elements = tile_rows * tile_depth;

/// Prepares the calling thread for block products: eight full tiles where they are what multiplies.
void enter_block_products();

constexpr std::int64_t depth_steps(std::int64_t depth) { return (depth + tile_depth - 1) / tile_depth; }
/// bf16 elements of a packed panel: 32 rows or columns by `depth`, zero-padded.
constexpr std::int64_t panel_elements(std::int64_t depth) { return depth_steps(depth) * 2 * tile_elements; }

// Panels: [depth step][2 tiles][16][32]. "count" is how many of the 32 rows or columns exist; the rest is zero.

/// Right operand from rows that are contiguous in the inner dimension (a weight [n, k]): pairs of k interleaved over n.
void pack_right_from_rows(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count, std::int64_t depth);
/// Right operand from a matrix [k, n].
void pack_right_from_columns(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count,
                             std::int64_t depth);
/// Left operand from a matrix [k, m], transposed on the way.
void pack_left_from_columns(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count,
                            std::int64_t depth);
/// Left operand from rows [m, k].
void pack_left_from_rows(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count, std::int64_t depth);

/// A 32-row left operand: rows in place in memory (row_bytes between them), or a packed panel.
struct LeftBlock {
    const bf16* upper;
    const bf16* lower;
    std::int64_t row_bytes;
    std::int64_t step_elements;
};

inline LeftBlock left_rows(const bf16* rows, std::int64_t stride) {
    return {rows, rows + tile_rows * stride, stride * 2, tile_depth};
}
inline LeftBlock left_panel(const bf16* panel) { return {panel, panel + tile_elements, 64, 2 * tile_elements}; }

/// result [32][stride] f32 = left * right panel.
void block_product(float* result, std::int64_t stride, const LeftBlock& left, const bf16* right_panel,
                   std::int64_t steps);

#endif

}  // namespace pvtune::cpu
