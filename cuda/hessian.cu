// hessian += factor * in^T in: the second moments of a layer's inputs, symmetric. in [tokens, width].
//
// Only tiles on and below the diagonal are computed; each writes its mirror image too. bf16 rows of whole 16 bytes go
// through tensor cores: both operands of a tile are columns of the same rows, brought to shared memory a few stages
// ahead and transposed by ldmatrix. Everything else takes plain f32 tiles. An element's products are added in the order
// of the tokens (tensor cores: of groups of 16 tokens), whatever the grid.

#include "cuda/async_copy.cuh"
#include "cuda/kernels.h"
#include "cuda/mma.cuh"

namespace pvtune::cuda {

namespace {

struct Tile {
    int row, column;
};

/// The block's tile; column > row: above the diagonal, no work. Blocks that run at the same time have tiles of a square
/// rather than of a row, so that they share what they read.
__device__ inline Tile tile_of_block(int tiles) {
    constexpr int band_rows = 16;
    const int band_blocks = band_rows * tiles;
    const int index = static_cast<int>(blockIdx.x);
    const int first_row = index / band_blocks * band_rows;
    const int rows = tiles - first_row < band_rows ? tiles - first_row : band_rows;
    return {first_row + index % band_blocks % rows, index % band_blocks / rows};
}

/// Adds to element (row, column) and its mirror image; what lies above the diagonal or outside does nothing.
__device__ inline void add_symmetric(float* hessian, int width, int row, int column, float value) {
    if (row >= width || column > row) return;
    const std::int64_t at = static_cast<std::int64_t>(row) * width + column;
    value += hessian[at];
    hessian[at] = value;
    hessian[static_cast<std::int64_t>(column) * width + row] = value;
}

constexpr int stage_tokens = 32;
constexpr int stages = 4;
constexpr int chunk = 8;  ///< bf16 elements in 16 bytes

/// Warps in `rows` x 2 each compute 32 rows x side / 2 columns of a tile.
template <int side>
struct MmaLayout {
    static constexpr int warp_rows = 32;
    static constexpr int warp_columns = side / 2;
    static constexpr int threads = side / warp_rows * 2 * warp_size;
    static constexpr int stage_elements = stage_tokens * side;  ///< of each of the two operands
    static constexpr int shared_bytes = stages * 2 * stage_elements * static_cast<int>(sizeof(bf16));
};

/// Where 16 bytes lie in a stage's operand [stage_tokens, side]: chunks of a row change places by the row, so that the
/// eight rows that ldmatrix reads together are in different banks.
template <int side>
__device__ inline int chunk_offset(int token, int column) {
    return token * side + ((column / chunk) ^ (token % chunk)) * chunk;
}

template <int side>
__global__ void __launch_bounds__(MmaLayout<side>::threads)
    hessian_mma_kernel(float* hessian, const bf16* in, std::int64_t tokens, int width, int tiles, float factor) {
    using Layout = MmaLayout<side>;
    constexpr int row_fragments = Layout::warp_rows / 16;
    constexpr int column_fragments = Layout::warp_columns / 8;
    const Tile tile = tile_of_block(tiles);
    if (tile.column > tile.row) return;
    bf16* const shared = dynamic_shared<bf16>();
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % warp_size;
    const int warp = thread / warp_size;
    const int warp_row = warp / 2 * Layout::warp_rows;
    const int warp_column = warp % 2 * Layout::warp_columns;

    const auto fetch = [&](std::int64_t first_token, int stage) {
        constexpr int row_chunks = side / chunk;
        bf16* const to = shared + stage * 2 * Layout::stage_elements;
#pragma unroll
        for (int i = thread; i < stage_tokens * row_chunks; i += Layout::threads) {
            const int token = i / row_chunks;
            const int column = i % row_chunks * chunk;
            const int offset = chunk_offset<side>(token, column);
            const bool inside = first_token + token < tokens;
            const bf16* const from = in + (inside ? first_token + token : 0) * width;
            const int row_column = tile.row * side + column;
            const int column_column = tile.column * side + column;
            const bool row_inside = inside && row_column < width;
            const bool column_inside = inside && column_column < width;
            async_copy_16(to + offset, row_inside ? from + row_column : in, row_inside ? 16 : 0);
            async_copy_16(to + Layout::stage_elements + offset, column_inside ? from + column_column : in,
                          column_inside ? 16 : 0);
        }
    };

    float sums[row_fragments][column_fragments][4] = {};
#pragma unroll
    for (int stage = 0; stage < stages - 1; ++stage) {
        if (stage * stage_tokens < tokens) fetch(stage * stage_tokens, stage);
        async_commit();
    }
    int stage = 0;
    for (std::int64_t first_token = 0; first_token < tokens; first_token += stage_tokens) {
        async_wait<stages - 2>();
        __syncthreads();
        const std::int64_t next = first_token + (stages - 1) * stage_tokens;
        if (next < tokens) fetch(next, (stage + stages - 1) % stages);
        async_commit();

        const bf16* const row_operand = shared + stage * 2 * Layout::stage_elements;
        const bf16* const column_operand = row_operand + Layout::stage_elements;
#pragma unroll
        for (int k = 0; k < stage_tokens; k += 16) {
            std::uint32_t a[row_fragments][4];
            std::uint32_t b[column_fragments][2];
#pragma unroll
            for (int i = 0; i < row_fragments; ++i) {
                const int token = k + lane / 16 * 8 + lane % 8;
                const int column = warp_row + i * 16 + lane / 8 % 2 * 8;
                load_matrices_transposed(a[i], row_operand + chunk_offset<side>(token, column));
            }
#pragma unroll
            for (int j = 0; j < column_fragments; j += 2) {
                const int token = k + lane / 8 % 2 * 8 + lane % 8;
                const int column = warp_column + j * 8 + lane / 16 * 8;
                std::uint32_t both[4];
                load_matrices_transposed(both, column_operand + chunk_offset<side>(token, column));
                b[j][0] = both[0];
                b[j][1] = both[1];
                b[j + 1][0] = both[2];
                b[j + 1][1] = both[3];
            }
#pragma unroll
            for (int i = 0; i < row_fragments; ++i) {
#pragma unroll
                for (int j = 0; j < column_fragments; ++j) mma_bf16(sums[i][j], a[i], b[j]);
            }
        }
        stage = (stage + 1) % stages;
    }

#pragma unroll
    for (int i = 0; i < row_fragments; ++i) {
#pragma unroll
        for (int j = 0; j < column_fragments; ++j) {
            const int row = tile.row * side + warp_row + i * 16 + lane / 4;
            const int column = tile.column * side + warp_column + j * 8 + lane % 4 * 2;
            add_symmetric(hessian, width, row, column, factor * sums[i][j][0]);
            add_symmetric(hessian, width, row, column + 1, factor * sums[i][j][1]);
            add_symmetric(hessian, width, row + 8, column, factor * sums[i][j][2]);
            add_symmetric(hessian, width, row + 8, column + 1, factor * sums[i][j][3]);
        }
    }
}

constexpr int plain_side = 128;
constexpr int plain_tokens = 16;
constexpr int plain_threads = 256;

/// A thread has rows and columns 4 x, 4 x + 1, .., 64 + 4 x, .. of the tile.
__device__ inline int plain_place(int thread, int i) { return i / 4 * (plain_side / 2) + thread * 4 + i % 4; }

template <class T>
__global__ void __launch_bounds__(plain_threads)
    hessian_plain_kernel(float* hessian, const T* in, std::int64_t tokens, int width, int tiles, float factor) {
    constexpr int held = plain_tokens * plain_side / plain_threads;
    alignas(16) __shared__ float row_operand[plain_tokens][plain_side];
    alignas(16) __shared__ float column_operand[plain_tokens][plain_side];
    const Tile tile = tile_of_block(tiles);
    if (tile.column > tile.row) return;
    const int thread = static_cast<int>(threadIdx.x);
    const int row_thread = thread / 16;
    const int column_thread = thread % 16;

    float rows[held];
    float columns[held];
    const auto fetch = [&](std::int64_t first_token) {
        const int column = thread % plain_side;
#pragma unroll
        for (int i = 0; i < held; ++i) {
            const std::int64_t token = first_token + i * (plain_threads / plain_side) + thread / plain_side;
            const int row_column = tile.row * plain_side + column;
            const int column_column = tile.column * plain_side + column;
            rows[i] = token < tokens && row_column < width ? to_float(in[token * width + row_column]) : 0.0F;
            columns[i] = token < tokens && column_column < width ? to_float(in[token * width + column_column]) : 0.0F;
        }
    };

    float sums[8][8] = {};
    fetch(0);
    for (std::int64_t first_token = 0; first_token < tokens; first_token += plain_tokens) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < held; ++i) {
            const int token = i * (plain_threads / plain_side) + thread / plain_side;
            row_operand[token][thread % plain_side] = rows[i];
            column_operand[token][thread % plain_side] = columns[i];
        }
        __syncthreads();
        fetch(first_token + plain_tokens);
#pragma unroll 4
        for (int token = 0; token < plain_tokens; ++token) {
            float a[8];
            float b[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) a[i] = row_operand[token][plain_place(row_thread, i)];
#pragma unroll
            for (int i = 0; i < 8; ++i) b[i] = column_operand[token][plain_place(column_thread, i)];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            add_symmetric(hessian, width, tile.row * plain_side + plain_place(row_thread, i),
                          tile.column * plain_side + plain_place(column_thread, j), factor * sums[i][j]);
        }
    }
}

template <int side>
void accumulate_by_mma(float* hessian, const bf16* in, std::int64_t tokens, std::int64_t width, float factor,
                       Stream stream) {
    const std::int64_t tiles = ceil_divide(width, side);
    launch(hessian_mma_kernel<side>, static_cast<unsigned>(tiles * tiles), MmaLayout<side>::threads,
           MmaLayout<side>::shared_bytes, stream, hessian, in, tokens, width, tiles, factor);
}

/// Below this width tiles of 128 leave most of the multiprocessors without work.
constexpr std::int64_t wide = 1536;

}  // namespace

template <class T>
void hessian_accumulate(float* hessian, const T* in, std::int64_t tokens, std::int64_t width, float factor,
                        Stream stream) {
    if (tokens == 0 || width == 0) return;
    if constexpr (sizeof(T) == sizeof(bf16)) {
        if (width % chunk == 0) {
            if (width < wide) {
                accumulate_by_mma<64>(hessian, in, tokens, width, factor, stream);
            } else {
                accumulate_by_mma<128>(hessian, in, tokens, width, factor, stream);
            }
            return;
        }
    }
    const std::int64_t tiles = ceil_divide(width, plain_side);
    launch(hessian_plain_kernel<T>, static_cast<unsigned>(tiles * tiles), plain_threads, 0, stream, hessian, in, tokens,
           width, tiles, factor);
}

template void hessian_accumulate(float*, const float*, std::int64_t, std::int64_t, float, Stream);
template void hessian_accumulate(float*, const bf16*, std::int64_t, std::int64_t, float, Stream);

}  // namespace pvtune::cuda
