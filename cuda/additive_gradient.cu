// From dW, with the same bits on every run:
//   d_codebooks[m, k] = sum of scales[o] * dW[o, g] over the groups (o, g) whose m-th code is k,
//   d_scales[o] = <dW[o], W[o] / scales[o]>.
//
// Small codebooks: one read of dW. A warp has a copy of d_codebooks of its own in shared memory and goes through whole
// rows, so that every sum has one order: its groups one after the other, then the warps of a block, then the blocks.
// dW and the codes come by asynchronous copies, a few chunks ahead. A lane stands for one element of one codebook and
// nobody else writes the entries of that element, but where two groups share a warp (at most 16 elements a group):
// there the second one waits if both chose the same codeword. (64-bit integer atomics in shared memory would do with
// one copy a block; they are compare-and-swap loops on every architecture so far, and need the range of dW before its
// sums.)
//
// Codebooks of which a block cannot hold several copies go through additive_gradient_large.cu.

#include "cuda/additive.cuh"
#include "cuda/additive_gradient_large.h"
#include "cuda/async_copy.cuh"
#include "cuda/device_limits.h"
#include "cuda/reduce.cuh"

#include <algorithm>

namespace pvtune::cuda {

namespace {

constexpr int most_warps = 16;
constexpr int fewest_warps = 4;     // with fewer copies a block waits on itself more than integer atomics cost
constexpr int chunk_weights = 128;  // 16 bytes a lane
constexpr int stages = 4;
constexpr int batch = 4;  // steps whose operands are loaded together

/// How the dynamic shared memory of a block is cut: the codebooks, then for every warp its sums and its stages.
struct SharedLayout {
    int entries = 0;     // floats of all codebooks
    int code_bytes = 0;  // of a stage
    int warps = 0;

    template <class Code>
    explicit SharedLayout(const AdditiveView<Code>& additive)
        : entries(static_cast<int>(
              std::min<std::int64_t>(additive.books * additive.codebook_size * additive.group, 1 << 24))),
          code_bytes(static_cast<int>(
              ceil_divide(chunk_weights / additive.group * additive.books * static_cast<int>(sizeof(Code)) + 15, 16) *
              16)) {
        const int left = most_shared_bytes() - codebook_bytes();
        warps = std::clamp(left / warp_bytes(), 0, most_warps);
    }
    __host__ __device__ int codebook_bytes() const { return (entries * 4 + 15) / 16 * 16; }
    __host__ __device__ int stage_bytes() const { return chunk_weights * 4 + code_bytes; }
    __host__ __device__ int warp_bytes() const { return codebook_bytes() + stages * stage_bytes(); }
    int bytes() const { return codebook_bytes() + warps * warp_bytes(); }
    bool fits() const { return warps >= fewest_warps; }
};

/// A run of groups of one row, at most chunk_weights weights.
struct Chunk {
    std::int64_t row;
    int first;  // group of the row

    __device__ void advance(int groups, int chunk_groups, std::int64_t row_step) {
        first += chunk_groups;
        if (first < groups) return;
        first = 0;
        row += row_step;
    }
};

template <class Code>
__device__ inline std::int64_t first_code_byte(const Chunk& chunk, const AdditiveView<Code>& additive) {
    return (chunk.row * additive.groups + chunk.first) * additive.books * static_cast<std::int64_t>(sizeof(Code));
}

/// Starts the copies of a chunk to a stage. Codes begin anywhere: the 16-byte pieces around them are copied.
template <int group, class Code>
__device__ inline void start_copy(std::byte* stage, const Chunk& chunk, const float* d_weight,
                                  const AdditiveView<Code>& additive, int lane) {
    const int count = min(static_cast<int>(additive.groups) - chunk.first, chunk_weights / group);
    const float* weights = d_weight + (chunk.row * additive.groups + chunk.first) * group;
    if (lane * 4 < count * group) async_copy_16(stage + lane * 16, weights + lane * 4);
    const std::int64_t begin = first_code_byte(chunk, additive);
    const std::int64_t aligned = begin / 16 * 16;
    const std::int64_t end = begin + count * additive.books * static_cast<std::int64_t>(sizeof(Code));
    const std::int64_t all = additive.rows * additive.groups * additive.books * static_cast<std::int64_t>(sizeof(Code));
    const auto* bytes = reinterpret_cast<const std::byte*>(additive.codes);
    for (std::int64_t at = aligned + lane * 16; at < end; at += warp_size * 16) {
        async_copy_16(stage + chunk_weights * 4 + (at - aligned), bytes + at,
                      static_cast<int>(min(all - at, std::int64_t{16})));
    }
}

/// Adds scale * value to the sums of a chunk; returns sum + <values, codewords>. `paired`: the lower half of the warp
/// has the even groups, the upper half the odd ones.
template <int group, bool paired, class Code>
__device__ inline float add_chunk(float* sums, float sum, const std::byte* stage, const Chunk& chunk, float scale,
                                  const float* codebooks, const AdditiveView<Code>& additive, int lane) {
    const int count = min(static_cast<int>(additive.groups) - chunk.first, chunk_weights / group);
    const auto books = static_cast<int>(additive.books);
    const auto* values = reinterpret_cast<const float*>(stage);
    const auto* codes =
        reinterpret_cast<const Code*>(stage + chunk_weights * 4 + first_code_byte(chunk, additive) % 16);
    constexpr int lanes = paired ? warp_size / 2 : warp_size;
    constexpr int groups_a_step = warp_size / lanes;
    const int half = lane / lanes;
    for (int element = lane % lanes; element < ceil_divide(books * group, lanes) * lanes; element += lanes) {
        const int book = element / group;
        const int base = book * static_cast<int>(additive.codebook_size) * group + element % group;
        for (int first = half; first < count + half; first += batch * groups_a_step) {
            int at[batch];  // -1: not this lane
            float value[batch];
#pragma unroll
            for (int j = 0; j < batch; ++j) {
                const int g = first + j * groups_a_step;
                const bool used = g < count && element < books * group;
                at[j] = used ? base + codes[g * books + book] * group : -1;
                value[j] = used ? values[g * group + element % group] : 0.0F;
            }
#pragma unroll
            for (int j = 0; j < batch; ++j) {
                if (at[j] >= 0) sum = fmaf(codebooks[at[j]], value[j], sum);
            }
#pragma unroll
            for (int j = 0; j < batch; ++j) {
                if constexpr (paired) {
                    const int other = __shfl_xor_sync(whole_warp, at[j], lanes);
                    const bool second = half == 1 && other == at[j];
                    if (at[j] >= 0 && !second) sums[at[j]] = fmaf(scale, value[j], sums[at[j]]);
                    __syncwarp();
                    if (at[j] >= 0 && second) sums[at[j]] = fmaf(scale, value[j], sums[at[j]]);
                    __syncwarp();
                } else if (at[j] >= 0) {
                    sums[at[j]] = fmaf(scale, value[j], sums[at[j]]);
                }
            }
        }
    }
    return sum;
}

/// partials [blocks, entries]: what each block adds to d_codebooks.
template <class Code, int group, bool paired>
__global__ void __launch_bounds__(most_warps* warp_size, 1)
    additive_gradient_kernel(float* partials, float* d_scales, const float* d_weight, AdditiveView<Code> additive,
                             SharedLayout layout) {
    std::byte* const shared = dynamic_shared<std::byte>();
    auto* const codebooks = reinterpret_cast<float*>(shared);
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    std::byte* const own = shared + layout.codebook_bytes() + warp * layout.warp_bytes();
    auto* const sums = reinterpret_cast<float*>(own);
    std::byte* const ring = own + layout.codebook_bytes();
    for (int i = static_cast<int>(threadIdx.x); i < layout.entries; i += static_cast<int>(blockDim.x)) {
        codebooks[i] = additive.codebooks[i];
    }
    for (int i = lane; i < layout.entries; i += warp_size) sums[i] = 0;

    const auto groups = static_cast<int>(additive.groups);
    constexpr int chunk_groups = chunk_weights / group;
    const std::int64_t row_step = std::int64_t{gridDim.x} * layout.warps;
    Chunk chunk{std::int64_t{blockIdx.x} * layout.warps + warp, 0};
    Chunk ahead = chunk;
    int filled = 0;  // stage of `ahead`
    const auto start_next = [&] {
        if (ahead.row < additive.rows) {
            start_copy<group>(ring + filled * layout.stage_bytes(), ahead, d_weight, additive, lane);
            ahead.advance(groups, chunk_groups, row_step);
        }
        async_commit();
        filled = (filled + 1) % stages;
    };
    for (int i = 0; i < stages - 1; ++i) start_next();
    __syncthreads();
    float products = 0;
    for (int stage = 0; chunk.row < additive.rows; stage = (stage + 1) % stages) {
        async_wait<stages - 2>();
        __syncwarp();  // for the copies of the other lanes, and for the stage that they have left
        start_next();
        products = add_chunk<group, paired>(sums, products, ring + stage * layout.stage_bytes(), chunk,
                                            additive.scales[chunk.row], codebooks, additive, lane);
        const std::int64_t row = chunk.row;
        chunk.advance(groups, chunk_groups, row_step);
        if (chunk.row != row) {
            products = warp_sum(products);
            if (lane == 0) d_scales[row] = products;
            products = 0;
        }
    }
    async_wait<0>();
    __syncthreads();
    const int warp_floats = layout.warp_bytes() / 4;
    const auto* first_sums = reinterpret_cast<const float*>(shared + layout.codebook_bytes());
    for (int i = static_cast<int>(threadIdx.x); i < layout.entries; i += static_cast<int>(blockDim.x)) {
        float total = 0;
        for (int w = 0; w < layout.warps; ++w) total += first_sums[w * warp_floats + i];
        partials[std::int64_t{blockIdx.x} * layout.entries + i] = total;
    }
}

constexpr int sum_slices = 8;  // warps that share the blocks' partial sums of 32 entries

__global__ void __launch_bounds__(sum_slices* warp_size)
    sum_partials_kernel(float* d_codebooks, const float* partials, int entries, int blocks) {
    __shared__ float totals[sum_slices][warp_size];
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int slice = static_cast<int>(threadIdx.x) / warp_size;
    const int i = static_cast<int>(blockIdx.x) * warp_size + lane;
    float total = 0;
    if (i < entries) {
#pragma unroll 4
        for (int b = slice; b < blocks; b += sum_slices) total += partials[std::int64_t{b} * entries + i];
    }
    totals[slice][lane] = total;
    __syncthreads();
    if (slice != 0 || i >= entries) return;
    for (int s = 1; s < sum_slices; ++s) total += totals[s][lane];
    d_codebooks[i] = total;
}

std::int64_t blocks_for(std::int64_t rows, int warps) {
    return std::min<std::int64_t>(ceil_divide(rows, warps), multiprocessors());
}

}  // namespace

template <class Code>
std::size_t additive_gradient_workspace(const AdditiveView<Code>& additive) {
    const SharedLayout layout(additive);
    if (!layout.fits()) return large_gradient_workspace(additive);
    return static_cast<std::size_t>(blocks_for(additive.rows, layout.warps) * layout.entries) * sizeof(float);
}

template <class Code>
void additive_gradient(float* d_codebooks, float* d_scales, const float* d_weight, const AdditiveView<Code>& additive,
                       void* workspace, Stream stream) {
    check_additive(additive);
    if (additive.rows * additive.groups == 0) {
        const auto entries = static_cast<std::size_t>(additive.books * additive.codebook_size * additive.group);
        check(cudaMemsetAsync(d_codebooks, 0, entries * sizeof(float), stream), "clearing a gradient");
        if (additive.rows == 0) return;  // d_scales may be null
        check(cudaMemsetAsync(d_scales, 0, static_cast<std::size_t>(additive.rows) * sizeof(float), stream),
              "clearing a gradient");
        return;
    }
    const SharedLayout layout(additive);
    if (!layout.fits()) return large_gradient(d_codebooks, d_scales, d_weight, additive, workspace, stream);
    auto* const partials = static_cast<float*>(workspace);
    const auto blocks = static_cast<unsigned>(blocks_for(additive.rows, layout.warps));
    const auto start = [&]<int group, bool paired>() {
        launch(additive_gradient_kernel<Code, group, paired>, blocks, static_cast<unsigned>(layout.warps * warp_size),
               static_cast<std::size_t>(layout.bytes()), stream, partials, d_scales, d_weight, additive, layout);
    };
    with_group(additive.group, [&]<int group>() {
        if (additive.books * group <= warp_size / 2) return start.template operator()<group, true>();
        start.template operator()<group, false>();
    });
    launch(sum_partials_kernel, static_cast<unsigned>(ceil_divide(layout.entries, warp_size)), sum_slices * warp_size,
           0, stream, d_codebooks, partials, layout.entries, static_cast<int>(blocks));
}

template std::size_t additive_gradient_workspace(const AdditiveView<std::uint8_t>&);
template std::size_t additive_gradient_workspace(const AdditiveView<std::uint16_t>&);
template void additive_gradient(float*, float*, const float*, const AdditiveView<std::uint8_t>&, void*, Stream);
template void additive_gradient(float*, float*, const float*, const AdditiveView<std::uint16_t>&, void*, Stream);

}  // namespace pvtune::cuda
