#include "host/backend/cpu/bf16_blocks.h"

#include <algorithm>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pvtune::cpu {

namespace {

BlockUnit limit = BlockUnit::tiles;

BlockUnit fastest_unit() {
#ifdef __AMX_BF16__
    // The kernel hands out the 8 KiB of tile state on request only (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA).
    constexpr long request_permission = 0x1023;
    constexpr long tile_data = 18;
    if (syscall(SYS_arch_prctl, request_permission, tile_data) == 0) return BlockUnit::tiles;
#endif
#ifdef __AVX512BF16__
    return BlockUnit::dots;
#else
    return BlockUnit::none;
#endif
}

}  // namespace

BlockUnit block_unit() {
    static const BlockUnit fastest = fastest_unit();
    return std::min(fastest, limit);
}

LimitBlockUnit::LimitBlockUnit(BlockUnit most) : before_(limit) { limit = std::min(limit, most); }
LimitBlockUnit::~LimitBlockUnit() { limit = before_; }

#ifdef __AVX512BF16__

void enter_block_products() {
#ifdef __AMX_BF16__
    // Static: g++ tells the optimiser of the first 8 bytes of _tile_loadconfig's operand only.
    struct alignas(64) Configuration {
        std::uint8_t palette = 1;
        std::uint8_t start_row = 0;
        std::uint8_t reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static const Configuration configuration;
    if (block_unit() == BlockUnit::tiles) _tile_loadconfig(&configuration);
#endif
}

namespace {

/// Transposes 16 x 16 32-bit values held in 16 registers.
inline void transpose_16x16(__m512i (&row)[16]) {
    __m512i even[16];
    for (int i = 0; i < 16; i += 2) {
        even[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        even[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        row[i] = _mm512_unpacklo_epi64(even[i], even[i + 2]);
        row[i + 1] = _mm512_unpackhi_epi64(even[i], even[i + 2]);
        row[i + 2] = _mm512_unpacklo_epi64(even[i + 1], even[i + 3]);
        row[i + 3] = _mm512_unpackhi_epi64(even[i + 1], even[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        even[i] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
        even[i + 4] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
        even[i + 8] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
        even[i + 12] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        row[i] = _mm512_shuffle_i32x4(even[i], even[i + 8], 0x88);
        row[i + 8] = _mm512_shuffle_i32x4(even[i], even[i + 8], 0xdd);
        row[i + 4] = _mm512_shuffle_i32x4(even[i + 4], even[i + 12], 0x88);
        row[i + 12] = _mm512_shuffle_i32x4(even[i + 4], even[i + 12], 0xdd);
    }
}

constexpr __mmask32 low_bits(std::int64_t count) { return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1; }

/// 16 rows of 32 elements, zero beyond `rows` and `columns`.
inline void load_rows(__m512i (&row)[16], const bf16* source, std::int64_t stride, std::int64_t rows,
                      std::int64_t columns) {
    const __mmask32 mask = low_bits(columns);
    for (std::int64_t i = 0; i < 16; ++i) {
        row[i] = i < rows ? _mm512_maskz_loadu_epi16(mask, source + i * stride) : _mm512_setzero_si512();
    }
}

/// Rows p = (source[2p], source[2p + 1]) interleaved, 16 columns wide, zero beyond `columns` and `depth`.
inline void load_interleaved(__m512i (&row)[16], const bf16* source, std::int64_t stride, std::int64_t columns,
                             std::int64_t depth) {
    const auto mask = static_cast<__mmask16>(columns <= 0 ? 0 : low_bits(columns));
    for (std::int64_t pair = 0; pair < 16; ++pair) {
        const bf16* at = source + 2 * pair * stride;
        const __m256i first = 2 * pair < depth ? _mm256_maskz_loadu_epi16(mask, at) : _mm256_setzero_si256();
        const __m256i second =
            2 * pair + 1 < depth ? _mm256_maskz_loadu_epi16(mask, at + stride) : _mm256_setzero_si256();
        row[pair] = _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
    }
}

inline void store_tile(bf16* tile, const __m512i (&row)[16]) {
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(tile + i * tile_depth, row[i]);
}

template <bool transpose>
void pack_rows(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count, std::int64_t depth) {
    __m512i row[16];
    for (std::int64_t step = 0; step < depth_steps(depth); ++step) {
        const std::int64_t left = depth - step * tile_depth;
        for (std::int64_t half = 0; half < 2; ++half) {
            const std::int64_t first = half * tile_rows;
            load_rows(row, source + first * stride + step * tile_depth, stride, count - first, left);
            if constexpr (transpose) transpose_16x16(row);
            store_tile(panel, row);
            panel += tile_elements;
        }
    }
}

template <bool transpose>
void pack_columns(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count, std::int64_t depth) {
    __m512i row[16];
    for (std::int64_t step = 0; step < depth_steps(depth); ++step) {
        for (std::int64_t half = 0; half < 2; ++half) {
            const std::int64_t first = half * tile_rows;
            load_interleaved(row, source + step * tile_depth * stride + first, stride, count - first,
                             depth - step * tile_depth);
            if constexpr (transpose) transpose_16x16(row);
            store_tile(panel, row);
            panel += tile_elements;
        }
    }
}

}  // namespace

void pack_right_from_rows(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count,
                          std::int64_t depth) {
    pack_rows<true>(panel, source, stride, count, depth);
}

void pack_left_from_rows(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count, std::int64_t depth) {
    pack_rows<false>(panel, source, stride, count, depth);
}

void pack_right_from_columns(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count,
                             std::int64_t depth) {
    pack_columns<false>(panel, source, stride, count, depth);
}

void pack_left_from_columns(bf16* panel, const bf16* source, std::int64_t stride, std::int64_t count,
                            std::int64_t depth) {
    pack_columns<true>(panel, source, stride, count, depth);
}

namespace {

/// Eight rows at a time: their 8 x 32 sums stay in registers.
void dot_product(float* result, std::int64_t stride, const LeftBlock& left, const bf16* right_panel,
                 std::int64_t steps) {
    constexpr int rows = 8;
    const std::int64_t row_elements = left.row_bytes / static_cast<std::int64_t>(sizeof(bf16));
    for (std::int64_t first = 0; first < block_extent; first += rows) {
        __m512 sums[rows][2];
        for (auto& row : sums) row[0] = row[1] = _mm512_setzero_ps();
        const bf16* from = (first < tile_rows ? left.upper : left.lower) + first % tile_rows * row_elements;
        const bf16* panel = right_panel;
        for (std::int64_t step = 0; step < steps; ++step, from += left.step_elements, panel += 2 * tile_elements) {
            for (std::int64_t pair = 0; pair < tile_depth; pair += 2) {
                const bf16* const columns = panel + pair / 2 * tile_depth;
                const auto low = reinterpret_cast<__m512bh>(_mm512_loadu_si512(columns));
                const auto high = reinterpret_cast<__m512bh>(_mm512_loadu_si512(columns + tile_elements));
#pragma GCC unroll 8
                for (int i = 0; i < rows; ++i) {
                    int two;
                    std::memcpy(&two, from + i * row_elements + pair, sizeof two);
                    const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(two));
                    sums[i][0] = _mm512_dpbf16_ps(sums[i][0], low, both);
                    sums[i][1] = _mm512_dpbf16_ps(sums[i][1], high, both);
                }
            }
        }
        for (int i = 0; i < rows; ++i) {
            _mm512_storeu_ps(result + (first + i) * stride, sums[i][0]);
            _mm512_storeu_ps(result + (first + i) * stride + 16, sums[i][1]);
        }
    }
}

#ifdef __AMX_BF16__

void tile_product(float* result, std::int64_t stride, const LeftBlock& left, const bf16* right_panel,
                  std::int64_t steps) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const bf16* upper = left.upper;
    const bf16* lower = left.lower;
    // A tile is loaded anew right behind the last product that reads it. With all four loads ahead of the four products
    // the tiles' registers are all in use, and loads wait for products: 8 to 15 % slower on the shapes of a step.
    _tile_loadd(4, upper, left.row_bytes);
    _tile_loadd(6, right_panel, 64);
    _tile_loadd(7, right_panel + tile_elements, 64);
    _tile_loadd(5, lower, left.row_bytes);
    for (std::int64_t step = 1; step < steps; ++step) {
        upper += left.step_elements;
        lower += left.step_elements;
        right_panel += 2 * tile_elements;
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(4, upper, left.row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_loadd(6, right_panel, 64);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(7, right_panel + tile_elements, 64);
        _tile_loadd(5, lower, left.row_bytes);
    }
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    _tile_stored(0, result, stride * 4);
    _tile_stored(1, result + 16, stride * 4);
    _tile_stored(2, result + 16 * stride, stride * 4);
    _tile_stored(3, result + 16 * stride + 16, stride * 4);
}

#endif

}  // namespace

void block_product(float* result, std::int64_t stride, const LeftBlock& left, const bf16* right_panel,
                   std::int64_t steps) {
#ifdef __AMX_BF16__
    if (block_unit() == BlockUnit::tiles) return tile_product(result, stride, left, right_panel, steps);
#endif
    dot_product(result, stride, left, right_panel, steps);
}

#endif

}  // namespace pvtune::cpu
