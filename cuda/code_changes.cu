// Codes of chosen groups: saved, put back, what their change does to weights, loss and distance, and how many may stay.

#include "cuda/additive.cuh"
#include "cuda/primitives.cuh"
#include "cuda/score_key.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 128;

__device__ inline std::int64_t thread_index() { return std::int64_t{blockIdx.x} * block_threads + threadIdx.x; }

unsigned blocks_for(std::int64_t threads) { return static_cast<unsigned>(ceil_divide(threads, block_threads)); }

template <class Code>
__global__ void __launch_bounds__(block_threads)
    gather_codes_kernel(Code* saved, const Code* codes, const std::uint32_t* chosen, std::int64_t count, int width) {
    const std::int64_t i = thread_index();
    if (i >= count * width) return;
    saved[i] = codes[std::int64_t{chosen[i / width]} * width + i % width];
}

/// Four weights of a group less what they are with the codes saved, without the scale; the sums of
/// host/backend/cpu/code_changes.cpp in their order.
template <class Code>
__device__ inline float4 difference_of(const AdditiveView<Code>& additive, const Code* own, const Code* saved,
                                       int first) {
    float4 difference = make_float4(0, 0, 0, 0);
    for (int m = 0; m < static_cast<int>(additive.books); ++m) {
        const std::int64_t now = m * additive.codebook_size + own[m];
        const std::int64_t before = m * additive.codebook_size + saved[m];
        const float4 a = *reinterpret_cast<const float4*>(additive.codebooks + now * additive.group + first);
        const float4 b = *reinterpret_cast<const float4*>(additive.codebooks + before * additive.group + first);
        difference.x += a.x - b.x;
        difference.y += a.y - b.y;
        difference.z += a.z - b.z;
        difference.w += a.w - b.w;
    }
    return difference;
}

__device__ inline float add_product(float sum, const float4& a, const float4& b) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// matrix: the gradient, or null for the change's own square. A thread a group, as below.
template <class Code>
__global__ void __launch_bounds__(block_threads)
    code_product_kernel(float* product, AdditiveView<Code> additive, const float* matrix, const Code* saved,
                        const std::uint32_t* chosen, std::int64_t count) {
    const std::int64_t i = thread_index();
    if (i >= count) return;
    const std::int64_t at = chosen[i];
    const float scale = additive.scales[at / additive.groups];
    float sum = 0;
    for (int first = 0; first < static_cast<int>(additive.group); first += 4) {
        const float4 difference =
            difference_of(additive, additive.codes + at * additive.books, saved + i * additive.books, first);
        const float4 other =
            matrix == nullptr ? difference : *reinterpret_cast<const float4*>(matrix + at * additive.group + first);
        sum = add_product(sum, other, difference);
    }
    product[i] = matrix == nullptr ? sum * scale * scale : sum * scale;
}

template <class Code>
__global__ void __launch_bounds__(block_threads, 8)
    code_distance_kernel(float* distance, AdditiveView<Code> additive, const float* target, const std::uint32_t* chosen,
                         std::int64_t count) {
    const std::int64_t i = thread_index();
    if (i >= count) return;
    const std::int64_t at = chosen[i];
    const float scale = additive.scales[at / additive.groups];
    float sum = 0;
    for (int first = 0; first < static_cast<int>(additive.group); first += 4) {
        float4 value = make_float4(0, 0, 0, 0);
        for (int m = 0; m < static_cast<int>(additive.books); ++m) {
            const std::int64_t code = m * additive.codebook_size + additive.codes[at * additive.books + m];
            const float4 a = *reinterpret_cast<const float4*>(additive.codebooks + code * additive.group + first);
            value.x += a.x;
            value.y += a.y;
            value.z += a.z;
            value.w += a.w;
        }
        const float4 wanted = *reinterpret_cast<const float4*>(target + at * additive.group + first);
        const float4 rest = make_float4(fmaf(-scale, value.x, wanted.x), fmaf(-scale, value.y, wanted.y),
                                        fmaf(-scale, value.z, wanted.z), fmaf(-scale, value.w, wanted.w));
        sum = add_product(sum, rest, rest);
    }
    distance[i] = sum;
}

template <class Code>
__global__ void __launch_bounds__(block_threads)
    restore_codes_kernel(Code* codes, const Code* saved, const std::uint32_t* chosen, const std::uint8_t* keep,
                         std::int64_t count, int width) {
    const std::int64_t i = thread_index();
    if (i >= count * width || keep[i / width] != 0) return;
    codes[std::int64_t{chosen[i / width]} * width + i % width] = saved[i];
}

__global__ void __launch_bounds__(block_threads)
    change_keys_kernel(std::uint32_t* keys, std::uint32_t* places, const float* scores, const std::uint32_t* chosen,
                       std::int64_t count) {
    const std::int64_t i = thread_index();
    if (i >= count) return;
    keys[i] = key_of(scores[chosen[i]]);
    places[i] = static_cast<std::uint32_t>(i);
}

constexpr int bound_threads = 512;  // twice as many would leave each too few registers
constexpr int bound_warps = bound_threads / warp_size;
constexpr int bound_items = 8;  // changes in a row that one thread adds up

/// Sums over the threads before this one; total: over all.
__device__ inline double exclusive_block_sum(double value, double* partials, double& total) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    double inclusive = value;
    for (int offset = 1; offset < warp_size; offset *= 2) {
        const double other = __shfl_up_sync(whole_warp, inclusive, offset);
        if (lane >= offset) inclusive += other;
    }
    double before = __shfl_up_sync(whole_warp, inclusive, 1);
    if (lane == 0) before = 0;
    if (lane == warp_size - 1) partials[warp] = inclusive;
    __syncthreads();
    total = 0;
#pragma unroll 4
    for (int i = 0; i < bound_warps; ++i) {
        if (i == warp) before += total;
        total += partials[i];
    }
    __syncthreads();
    return before;
}

/// A thread's changes of a tile, in order of falling score: `places` is sorted. change may be null.
struct ChangesInOrder {
    std::uint32_t place[bound_items];
    float moved[bound_items];
    unsigned counted = 0;  ///< a bit an item: its change is one to count
    double sum = 0;

    __device__ ChangesInOrder(const std::uint8_t* keep, const float* change, const std::uint32_t* places,
                              std::int64_t count) {
        const std::int64_t first = (std::int64_t{blockIdx.x} * bound_threads + threadIdx.x) * bound_items;
#pragma unroll
        for (int j = 0; j < bound_items; ++j) {
            const bool here = first + j < count;
            place[j] = here ? places[first + j] : 0;
            moved[j] = here && change != nullptr ? change[place[j]] : 0;
            if (here && keep[place[j]] != 0) counted |= 1U << j;
            sum += static_cast<double>(moved[j]);
        }
    }
    __device__ double number() const { return static_cast<double>(__popc(counted)); }
};

/// What the changes of a tile come to. Numbers of changes are whole, so that their sums in f64 are exact.
struct TileTotal {
    double spent, kept;
};

__global__ void __launch_bounds__(bound_threads)
    change_totals_kernel(TileTotal* totals, const std::uint8_t* keep, const float* change, const std::uint32_t* places,
                         std::int64_t count) {
    __shared__ double partials[bound_warps];
    const ChangesInOrder changes(keep, change, places, count);
    TileTotal total{};
    exclusive_block_sum(changes.sum, partials, total.spent);
    exclusive_block_sum(changes.number(), partials, total.kept);
    if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

/// One block: totals[i] becomes the sum of those before it.
__global__ void __launch_bounds__(bound_threads) totals_before_kernel(TileTotal* totals, std::int64_t tiles) {
    __shared__ double partials[bound_warps];
    TileTotal before{};
    for (std::int64_t first = 0; first < tiles; first += bound_threads) {
        const std::int64_t i = first + threadIdx.x;
        const TileTotal own = i < tiles ? totals[i] : TileTotal{};
        TileTotal all{};
        const double spent = before.spent + exclusive_block_sum(own.spent, partials, all.spent);
        const double kept = before.kept + exclusive_block_sum(own.kept, partials, all.kept);
        if (i < tiles) totals[i] = {spent, kept};
        before.spent += all.spent;
        before.kept += all.kept;
    }
}

/// A block a tile. before: of every tile the totals before it; null where there is one tile. A change that is not a
/// number ends what may stay.
__global__ void __launch_bounds__(bound_threads)
    bound_changes_kernel(std::uint8_t* keep, const float* change, const std::uint32_t* places, std::int64_t count,
                         const TileTotal* before, const double* weight_squares, double trust_ratio, double most) {
    __shared__ double partials[bound_warps];
    const double budget = change == nullptr ? 0 : trust_ratio * trust_ratio * *weight_squares;
    const TileTotal start = before == nullptr ? TileTotal{} : before[blockIdx.x];
    const ChangesInOrder changes(keep, change, places, count);
    double total = 0;
    double running = start.spent + exclusive_block_sum(changes.sum, partials, total);
    double running_number = start.kept + exclusive_block_sum(changes.number(), partials, total);
#pragma unroll
    for (int j = 0; j < bound_items; ++j) {
        running += static_cast<double>(changes.moved[j]);
        if ((changes.counted >> j & 1U) == 0) continue;
        running_number += 1;
        if (!(running <= budget && running_number <= most)) keep[changes.place[j]] = 0;
    }
}

/// The parts of bound_changes' workspace, each 256-byte aligned.
struct BoundWorkspace {
    std::int64_t tiles;
    std::size_t array_bytes, total_bytes, sort_bytes;

    explicit BoundWorkspace(std::int64_t count)
        : tiles(ceil_divide(count, bound_threads * bound_items)),
          array_bytes(aligned(count * 4)),
          total_bytes(aligned(tiles * static_cast<std::int64_t>(sizeof(TileTotal)))),
          sort_bytes(sort_pairs_descending_workspace<std::uint32_t, std::uint32_t>(count)) {}
    static std::size_t aligned(std::int64_t bytes) { return static_cast<std::size_t>(ceil_divide(bytes, 256) * 256); }
    std::uint32_t* array(void* workspace, std::size_t i) const {
        return reinterpret_cast<std::uint32_t*>(static_cast<std::byte*>(workspace) + i * array_bytes);
    }
    TileTotal* totals(void* workspace) const { return reinterpret_cast<TileTotal*>(array(workspace, 4)); }
    void* sort(void* workspace) const { return reinterpret_cast<std::byte*>(totals(workspace)) + total_bytes; }
    std::size_t bytes() const { return 4 * array_bytes + total_bytes + sort_bytes; }
};

}  // namespace

template <class Code>
void gather_codes(Code* saved, const Code* codes, const std::uint32_t* chosen, std::int64_t count, std::int64_t width,
                  Stream stream) {
    if (count == 0) return;
    launch(gather_codes_kernel<Code>, blocks_for(count * width), block_threads, 0, stream, saved, codes, chosen, count,
           static_cast<int>(width));
}

template <class Code>
void code_change(float* change, const AdditiveView<Code>& additive, const Code* saved, const std::uint32_t* chosen,
                 std::int64_t count, Stream stream) {
    code_product(change, additive, nullptr, saved, chosen, count, stream);
}

template <class Code>
void code_product(float* product, const AdditiveView<Code>& additive, const float* matrix, const Code* saved,
                  const std::uint32_t* chosen, std::int64_t count, Stream stream) {
    check_additive(additive);
    if (count == 0) return;
    launch(code_product_kernel<Code>, blocks_for(count), block_threads, 0, stream, product, additive, matrix, saved,
           chosen, count);
}

template <class Code>
void code_distance(float* distance, const AdditiveView<Code>& additive, const float* target,
                   const std::uint32_t* chosen, std::int64_t count, Stream stream) {
    check_additive(additive);
    if (count == 0) return;
    launch(code_distance_kernel<Code>, blocks_for(count), block_threads, 0, stream, distance, additive, target, chosen,
           count);
}

template <class Code>
void restore_codes(Code* codes, const Code* saved, const std::uint32_t* chosen, const std::uint8_t* keep,
                   std::int64_t count, std::int64_t width, Stream stream) {
    if (count == 0) return;
    launch(restore_codes_kernel<Code>, blocks_for(count * width), block_threads, 0, stream, codes, saved, chosen, keep,
           count, static_cast<int>(width));
}

std::size_t bound_changes_workspace(std::int64_t count) { return BoundWorkspace(count).bytes(); }

void bound_changes(std::uint8_t* keep, const float* change, const float* scores, const std::uint32_t* chosen,
                   std::int64_t count, const double* weight_squares, double trust_ratio, std::int64_t most,
                   void* workspace, Stream stream) {
    if (count == 0) return;
    const BoundWorkspace parts(count);
    std::uint32_t* const keys = parts.array(workspace, 0);
    std::uint32_t* const places = parts.array(workspace, 1);
    std::uint32_t* const sorted_keys = parts.array(workspace, 2);
    std::uint32_t* const sorted_places = parts.array(workspace, 3);
    launch(change_keys_kernel, blocks_for(count), block_threads, 0, stream, keys, places, scores, chosen, count);
    sort_pairs_descending(keys, sorted_keys, places, sorted_places, count, parts.sort(workspace), parts.sort_bytes,
                          stream);
    const auto tiles = static_cast<unsigned>(parts.tiles);
    TileTotal* const before = tiles > 1 ? parts.totals(workspace) : nullptr;
    if (before != nullptr) {
        launch(change_totals_kernel, tiles, bound_threads, 0, stream, before, keep, change, sorted_places, count);
        launch(totals_before_kernel, 1, bound_threads, 0, stream, before, parts.tiles);
    }
    launch(bound_changes_kernel, tiles, bound_threads, 0, stream, keep, change, sorted_places, count, before,
           weight_squares, trust_ratio, static_cast<double>(most));
}

template void gather_codes(std::uint8_t*, const std::uint8_t*, const std::uint32_t*, std::int64_t, std::int64_t,
                           Stream);
template void gather_codes(std::uint16_t*, const std::uint16_t*, const std::uint32_t*, std::int64_t, std::int64_t,
                           Stream);
template void code_change(float*, const AdditiveView<std::uint8_t>&, const std::uint8_t*, const std::uint32_t*,
                          std::int64_t, Stream);
template void code_change(float*, const AdditiveView<std::uint16_t>&, const std::uint16_t*, const std::uint32_t*,
                          std::int64_t, Stream);
template void code_product(float*, const AdditiveView<std::uint8_t>&, const float*, const std::uint8_t*,
                           const std::uint32_t*, std::int64_t, Stream);
template void code_product(float*, const AdditiveView<std::uint16_t>&, const float*, const std::uint16_t*,
                           const std::uint32_t*, std::int64_t, Stream);
template void code_distance(float*, const AdditiveView<std::uint8_t>&, const float*, const std::uint32_t*, std::int64_t,
                            Stream);
template void code_distance(float*, const AdditiveView<std::uint16_t>&, const float*, const std::uint32_t*,
                            std::int64_t, Stream);
template void restore_codes(std::uint8_t*, const std::uint8_t*, const std::uint32_t*, const std::uint8_t*, std::int64_t,
                            std::int64_t, Stream);
template void restore_codes(std::uint16_t*, const std::uint16_t*, const std::uint32_t*, const std::uint8_t*,
                            std::int64_t, std::int64_t, Stream);

}  // namespace pvtune::cuda
