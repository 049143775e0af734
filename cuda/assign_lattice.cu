// New E8P codes for chosen groups, and how far groups have moved. A thread a group: the search of
// host/backend/cpu/e8p_search.cpp, candidate by candidate with its sums in their order, the table of absolute values in
// shared memory (all threads read the same entry at a time). The instructions of 512 candidates are the limit; the
// chosen groups of a V step are few.

#include "cuda/lattice_search.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 128;

template <int bytes>
__global__ void __launch_bounds__(block_threads)
    assign_lattice_kernel(LatticeView lattice, std::uint8_t* changed, const float* target, const std::uint32_t* chosen,
                          std::int64_t count, const __grid_constant__ e8p::Tables constants) {
    __shared__ SearchTables tables;
    load_search_tables(tables, constants);
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= count) return;
    const std::int64_t at = chosen[i];
    float x[dim];
    const bool usable = load_scaled(x, target + at * dim, lattice.scale);
    std::uint8_t* const own = lattice.codes + at * bytes;
    std::uint8_t found[4];
    bool changes = false;
    if (usable) {
        const std::uint32_t code = nearest_e8p<false>(tables, x, 0);
        found[0] = static_cast<std::uint8_t>(code & 0xffU);
        found[1] = static_cast<std::uint8_t>(code >> 8);
        if constexpr (bytes > 2) {
            float rest[dim];
            residual_of<bytes>(rest, tables, x, code);
            const std::uint32_t second =
                bytes == 3 ? nearest_residual<false>(tables, rest, 0) : nearest_e8p<false>(tables, rest, 0);
            found[2] = static_cast<std::uint8_t>(second & 0xffU);
            found[3] = static_cast<std::uint8_t>(second >> 8);
        }
        changes = distance<bytes>(tables, x, found) < distance<bytes>(tables, x, own);
    }
    changed[i] = changes ? 1 : 0;
    if (!changes) return;
#pragma unroll
    for (int b = 0; b < bytes; ++b) own[b] = found[b];
}

template <int bytes>
__global__ void __launch_bounds__(block_threads)
    lattice_change_kernel(float* change, LatticeView lattice, const std::uint8_t* saved, const std::uint32_t* chosen,
                          std::int64_t count, const __grid_constant__ e8p::Tables constants) {
    __shared__ SearchTables tables;
    load_tables(tables.tables, constants);
    __syncthreads();
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= count) return;
    float before[dim];
    decode_group<bytes>(before, tables.tables.magnitudes, tables.tables.residuals, saved + i * bytes);
    const float scale = *lattice.scale;
    change[i] = distance<bytes>(tables, before, lattice.codes + std::int64_t{chosen[i]} * bytes) * scale * scale;
}

unsigned blocks_for(std::int64_t count) { return static_cast<unsigned>(ceil_divide(count, block_threads)); }

}  // namespace

void assign_lattice(const LatticeView& lattice, std::uint8_t* changed, const float* target, const std::uint32_t* chosen,
                    std::int64_t count, Stream stream) {
    check_lattice(lattice);
    if (count == 0) return;
    with_bytes(lattice.bytes, [&]<int bytes>() {
        launch(assign_lattice_kernel<bytes>, blocks_for(count), block_threads, 0, stream, lattice, changed, target,
               chosen, count, e8p::tables());
    });
}

void lattice_change(float* change, const LatticeView& lattice, const std::uint8_t* saved, const std::uint32_t* chosen,
                    std::int64_t count, Stream stream) {
    check_lattice(lattice);
    if (count == 0) return;
    with_bytes(lattice.bytes, [&]<int bytes>() {
        launch(lattice_change_kernel<bytes>, blocks_for(count), block_threads, 0, stream, change, lattice, saved,
               chosen, count, e8p::tables());
    });
}

}  // namespace pvtune::cuda
