// What the strategies of a V step ask of E8P codes: the nearest other codes of a group, its distance, what a change of
// codes does to the loss. A thread a group, in the arithmetic of host/backend/cpu/lattice_changes.cpp.

#include "cuda/lattice_search.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 128;

__device__ inline void put_code(std::uint8_t* codes, std::uint32_t code) {
    codes[0] = static_cast<std::uint8_t>(code & 0xffU);
    codes[1] = static_cast<std::uint8_t>(code >> 8);
}

/// Of the changes of one code the one that comes nearest to x; ties: of the first.
template <int bytes>
__device__ inline void change_one_code(const SearchTables& tables, std::uint8_t* codes, const float (&x)[dim]) {
    const std::uint32_t own = code_at(codes);
    if constexpr (bytes == 2) {
        put_code(codes, nearest_e8p<true>(tables, x, own));
    } else {
        std::uint8_t first[4];
        std::uint8_t second[4];
#pragma unroll
        for (int b = 0; b < bytes; ++b) first[b] = second[b] = codes[b];
        float rest[dim];
        if constexpr (bytes == 3) {
            const std::uint32_t packed = tables.tables.residuals[codes[2]];
            constexpr float unit = 0.5F / e8p::residual_scale_3_bits;
#pragma unroll
            for (int i = 0; i < dim; ++i) rest[i] = fmaf(-unit, static_cast<float>(e8p::halves(packed, i)), x[i]);
        } else {
            constexpr float unit = 0.25F / e8p::residual_scale_4_bits;
            decode_e8p(rest, tables.tables.magnitudes, code_at(codes + 2));
#pragma unroll
            for (int i = 0; i < dim; ++i) rest[i] = fmaf(-unit, rest[i], x[i]);
        }
        put_code(first, nearest_e8p<true>(tables, rest, own));
        residual_of<bytes>(rest, tables, x, own);
        if constexpr (bytes == 3) {
            second[2] = static_cast<std::uint8_t>(nearest_residual<true>(tables, rest, codes[2]));
        } else {
            put_code(second + 2, nearest_e8p<true>(tables, rest, code_at(codes + 2)));
        }
        const bool take_second = distance<bytes>(tables, x, second) < distance<bytes>(tables, x, first);
#pragma unroll
        for (int b = 0; b < bytes; ++b) codes[b] = take_second ? second[b] : first[b];
    }
}

template <int bytes>
__global__ void __launch_bounds__(block_threads, 4)
    lattice_different_kernel(LatticeView lattice, std::uint8_t* changed, const float* target,
                             const std::uint32_t* chosen, std::int64_t count,
                             const __grid_constant__ e8p::Tables constants) {
    __shared__ SearchTables tables;
    load_search_tables(tables, constants);
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= count || changed[i] != 0) return;
    const std::int64_t at = chosen[i];
    float x[dim];
    if (!load_scaled(x, target + at * dim, lattice.scale)) return;
    change_one_code<bytes>(tables, lattice.codes + at * bytes, x);
    changed[i] = 1;
}

template <int bytes>
__global__ void __launch_bounds__(block_threads)
    lattice_distance_kernel(float* distances, LatticeView lattice, const float* target, const std::uint32_t* chosen,
                            std::int64_t count, const __grid_constant__ e8p::Tables constants) {
    __shared__ e8p::Tables tables;
    load_tables(tables, constants);
    __syncthreads();
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= count) return;
    const std::int64_t at = chosen[i];
    const float scale = *lattice.scale;
    float values[dim];
    decode_group<bytes>(values, tables.magnitudes, tables.residuals, lattice.codes + at * bytes);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < dim; ++j) {
        const float rest = fmaf(-scale, values[j], target[at * dim + j]);
        sum = fmaf(rest, rest, sum);
    }
    distances[i] = sum;
}

template <int bytes>
__global__ void __launch_bounds__(block_threads)
    lattice_product_kernel(float* product, LatticeView lattice, const float* matrix, const std::uint8_t* saved,
                           const std::uint32_t* chosen, std::int64_t count,
                           const __grid_constant__ e8p::Tables constants) {
    __shared__ e8p::Tables tables;
    load_tables(tables, constants);
    __syncthreads();
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= count) return;
    const std::int64_t at = chosen[i];
    float now[dim];
    float before[dim];
    decode_group<bytes>(now, tables.magnitudes, tables.residuals, lattice.codes + at * bytes);
    decode_group<bytes>(before, tables.magnitudes, tables.residuals, saved + i * bytes);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < dim; ++j) sum = fmaf(matrix[at * dim + j], now[j] - before[j], sum);
    product[i] = sum * *lattice.scale;
}

unsigned blocks_for(std::int64_t count) { return static_cast<unsigned>(ceil_divide(count, block_threads)); }

}  // namespace

void lattice_different(const LatticeView& lattice, std::uint8_t* changed, const float* target,
                       const std::uint32_t* chosen, std::int64_t count, Stream stream) {
    check_lattice(lattice);
    if (count == 0) return;
    with_bytes(lattice.bytes, [&]<int bytes>() {
        launch(lattice_different_kernel<bytes>, blocks_for(count), block_threads, 0, stream, lattice, changed, target,
               chosen, count, e8p::tables());
    });
}

void lattice_distance(float* distance, const LatticeView& lattice, const float* target, const std::uint32_t* chosen,
                      std::int64_t count, Stream stream) {
    check_lattice(lattice);
    if (count == 0) return;
    with_bytes(lattice.bytes, [&]<int bytes>() {
        launch(lattice_distance_kernel<bytes>, blocks_for(count), block_threads, 0, stream, distance, lattice, target,
               chosen, count, e8p::tables());
    });
}

void lattice_product(float* product, const LatticeView& lattice, const float* matrix, const std::uint8_t* saved,
                     const std::uint32_t* chosen, std::int64_t count, Stream stream) {
    check_lattice(lattice);
    if (count == 0) return;
    with_bytes(lattice.bytes, [&]<int bytes>() {
        launch(lattice_product_kernel<bytes>, blocks_for(count), block_threads, 0, stream, product, lattice, matrix,
               saved, chosen, count, e8p::tables());
    });
}

}  // namespace pvtune::cuda
