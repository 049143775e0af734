// weight[o, g * group + i] = scales[o] * sum_m codebooks[m, codes[o, g, m], i].
//
// Bound by the writing of the weight. A thread makes 4 neighbouring weights, so that a warp's stores fill whole
// sectors; group / 4 threads share a group and its codes. Small codebooks lie in shared memory, one line a codeword
// (additive.cuh), filled once by a block that stays for the whole matrix; large ones are read through L1 and L2, where
// the threads of a group ask for one sector a codeword. The sums run in the order of the codebooks, without
// contraction: the bits of host/backend/cpu/dequantize_additive.cpp.

#include "cuda/additive.cuh"
#include "cuda/device_limits.h"
#include "cuda/vector.cuh"

#include <algorithm>

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 1024;
constexpr int unrolled = 4;  // pieces of a thread whose codes are loaded together
constexpr int piece = 4;     // weights
constexpr int line_pieces = line_bytes / (piece * 4);
constexpr std::int64_t tile_pieces = block_threads * unrolled;

template <int group>
__device__ inline void fill_lines(float4* lines, const float4* codebooks, int codewords) {
    constexpr int parts = group / piece;
    for (int i = static_cast<int>(threadIdx.x); i < codewords * line_pieces; i += block_threads) {
        lines[i] = codebooks[i / line_pieces * parts + i % parts];
    }
    __syncthreads();
}

template <class T, class Code, int group, int books, bool in_shared>
__global__ void __launch_bounds__(block_threads, 1)
    dequantize_additive_kernel(T* weight, const Code* __restrict__ codes, const float* __restrict__ codebooks,
                               const float* __restrict__ scales, std::int64_t pieces, Divisor row_groups,
                               int book_count, int codebook_size) {
    constexpr int parts = group / piece;
    constexpr int stride = in_shared ? line_pieces : parts;  // between codewords, in pieces
    const int count = books > 0 ? books : book_count;
    const auto* table = reinterpret_cast<const float4*>(codebooks);
    if constexpr (in_shared) {
        float4* lines = dynamic_shared<float4>();
        fill_lines<group>(lines, table, count * codebook_size);
        table = lines;
    }
    const float4* own = table + threadIdx.x % stride;
    const auto group_of = [&](std::int64_t tile, int i) {
        return (tile * tile_pieces + i * block_threads + threadIdx.x) / parts;
    };
    const std::int64_t tiles = ceil_divide(pieces, tile_pieces);
    const std::int64_t group_count = pieces / parts;
    GroupCodes<Code, books> present[unrolled];
    const auto load = [&](GroupCodes<Code, books>(&into)[unrolled], std::int64_t tile) {
#pragma unroll
        for (int i = 0; i < unrolled; ++i) {
            const std::int64_t g = group_of(tile, i);
            if (g < group_count) into[i].load(codes + g * count);
        }
    };
    load(present, blockIdx.x);
    for (std::int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        GroupCodes<Code, books> next[unrolled];
        load(next, tile + gridDim.x);
#pragma unroll
        for (int i = 0; i < unrolled; ++i) {
            const std::int64_t g = group_of(tile, i);
            if (g >= group_count) break;
            const float scale = scales[row_groups.quotient(static_cast<std::uint32_t>(g))];
            float4 sum = own[present[i][0] * stride];
#pragma unroll
            for (int m = 1; m < count; ++m) {
                const float4 part = own[(m * codebook_size + static_cast<int>(present[i][m])) * stride];
                sum.x += part.x;
                sum.y += part.y;
                sum.z += part.z;
                sum.w += part.w;
            }
            const float values[piece] = {scale * sum.x, scale * sum.y, scale * sum.z, scale * sum.w};
            store_values<piece>(weight + (tile * tile_pieces + i * block_threads + threadIdx.x) * piece, values);
        }
#pragma unroll
        for (int i = 0; i < unrolled; ++i) present[i] = next[i];
    }
}

}  // namespace

template <class T, class Code>
void dequantize_additive(T* weight, const AdditiveView<Code>& additive, Stream stream) {
    check_additive(additive);
    const std::int64_t pieces = additive.rows * additive.groups * additive.group / piece;
    if (pieces == 0) return;
    const std::int64_t shared_bytes = additive.books * additive.codebook_size * line_bytes;
    const bool in_shared = shared_bytes <= most_shared_bytes();
    const std::int64_t tiles = ceil_divide(pieces, tile_pieces);
    const auto start = [&]<int group, int books, bool shared>() {
        // A block with codebooks of its own stays; without, the device spreads the tiles better than a loop.
        const std::int64_t blocks = shared ? std::min<std::int64_t>(tiles, multiprocessors()) : tiles;
        launch(dequantize_additive_kernel<T, Code, group, books, shared>, static_cast<unsigned>(blocks), block_threads,
               shared ? static_cast<std::size_t>(shared_bytes) : 0, stream, weight, additive.codes, additive.codebooks,
               additive.scales, pieces, Divisor(additive.groups), static_cast<int>(additive.books),
               static_cast<int>(additive.codebook_size));
    };
    with_group(additive.group, [&]<int group>() {
        with_books(additive.books, [&]<int books>() {
            if (in_shared) return start.template operator()<group, books, true>();
            start.template operator()<group, books, false>();
        });
    });
}

template void dequantize_additive(float*, const AdditiveView<std::uint8_t>&, Stream);
template void dequantize_additive(float*, const AdditiveView<std::uint16_t>&, Stream);
template void dequantize_additive(bf16*, const AdditiveView<std::uint8_t>&, Stream);
template void dequantize_additive(bf16*, const AdditiveView<std::uint16_t>&, Stream);

}  // namespace pvtune::cuda
