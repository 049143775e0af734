// LDLQ (QuIP#, Tseng et al. 2024) within a block of columns, all rows at once: groups of 8 columns take E8P codes one
// after the other, each after what the errors of those before it ask for. Eight lanes a row: a lane has one column of
// every group and an eighth of a search's candidates, which are what counts. Sums wait for their group in shared
// memory. Errors reach the columns behind the block by a matrix product (host/backend/cuda/ldlq_sweep.cpp).

#include "cuda/code_sweep.cuh"
#include "cuda/lattice_search.cuh"

namespace pvtune::cuda {

namespace {

static_assert(row_lanes == dim);

constexpr int sums_stride = static_cast<int>(sweep_columns) + 8;  ///< the four rows of a warp in other banks
constexpr std::size_t shared_bytes = (share_floats + sweep_rows * sums_stride) * sizeof(float);

struct Operands {
    std::uint8_t* codes;
    float* errors;
    const float* feedback;
    const float* target;
    const float* shares;
    std::int64_t rows, columns, first;
    int count;
};

/// The codes nearest to x, which all lanes of a row have; each gets all of them.
template <int bytes>
__device__ inline void encode_group(std::uint8_t (&found)[4], const SearchTables& tables, const float (&x)[dim],
                                    int lane) {
    const std::uint32_t code = nearest_e8p<false, row_lanes>(tables, x, 0, lane);
    found[0] = static_cast<std::uint8_t>(code & 0xffU);
    found[1] = static_cast<std::uint8_t>(code >> 8);
    if constexpr (bytes > 2) {
        float rest[dim];
        residual_of<bytes>(rest, tables, x, code);
        const std::uint32_t second = bytes == 3 ? nearest_residual<false, row_lanes>(tables, rest, 0, lane)
                                                : nearest_e8p<false, row_lanes>(tables, rest, 0, lane);
        found[2] = static_cast<std::uint8_t>(second & 0xffU);
        found[3] = static_cast<std::uint8_t>(second >> 8);
    }
}

template <int bytes>
__global__ void __launch_bounds__(sweep_threads)
    ldlq_block_kernel(const __grid_constant__ Operands at, const __grid_constant__ e8p::Tables constants) {
    __shared__ SearchTables tables;
    float* const shares = dynamic_shared<float>();
    load_shares(shares, at.shares, at.columns, at.first, at.count);
    load_search_tables(tables, constants);  // ends with a barrier
    const int lane = static_cast<int>(threadIdx.x) % row_lanes;
    const int block_row = static_cast<int>(threadIdx.x) / row_lanes;
    const std::int64_t own_row = std::int64_t{blockIdx.x} * sweep_rows + block_row;
    const bool inside = own_row < at.rows;
    const std::int64_t row = inside ? own_row : at.rows - 1;  // for the shuffles
    const std::int64_t start = row * at.columns + at.first + lane;
    float* const sums = shares + share_floats + block_row * sums_stride + lane;  // every eighth is this lane's
    const int groups = at.count / dim;
    for (int g = 0; g < groups; ++g) sums[g * dim] = at.feedback[start + g * dim];
    for (int g = 0; g < groups; ++g) {
        const float wanted = at.target[start + g * dim];
        const float own = wanted + sums[g * dim];
        float x[dim];
#pragma unroll
        for (int c = 0; c < dim; ++c) x[c] = __shfl_sync(whole_warp, own, c, row_lanes);
        std::uint8_t found[4];
        encode_group<bytes>(found, tables, x, lane);
        decode_group<bytes>(x, tables.tables.magnitudes, tables.tables.residuals, found);
        float value = x[0];
#pragma unroll
        for (int c = 1; c < dim; ++c) value = lane == c ? x[c] : value;  // no indexed registers
        const float error = wanted - value;
        float given[dim];
#pragma unroll
        for (int c = 0; c < dim; ++c) given[c] = __shfl_sync(whole_warp, error, c, row_lanes);
        const float* const from = shares + g * dim * share_stride + lane;
        for (int other = g + 1; other < groups; ++other) {
            float sum = sums[other * dim];
#pragma unroll
            for (int c = 0; c < dim; ++c) sum = fmaf(from[c * share_stride + other * dim], given[c], sum);
            sums[other * dim] = sum;
        }
        if (!inside) continue;
        at.errors[row * at.count + g * dim + lane] = error;
        std::uint8_t* const to = at.codes + (row * (at.columns / dim) + at.first / dim + g) * bytes;
#pragma unroll
        for (int b = 0; b < bytes; ++b) {
            if (lane == b) to[b] = found[b];
        }
    }
}

}  // namespace

void ldlq_block(std::uint8_t* codes, float* errors, const float* feedback, const float* target, const float* shares,
                std::int64_t rows, std::int64_t columns, std::int64_t bytes, std::int64_t first, std::int64_t count,
                Stream stream) {
    check_block("ldlq_block", columns, first, count);
    if (bytes < 2 || bytes > 4 || columns % dim != 0 || first % dim != 0 || count % dim != 0) {
        throw std::invalid_argument("ldlq_block: columns " + std::to_string(first) + " to " +
                                    std::to_string(first + count) + " of " + std::to_string(columns) + " with " +
                                    std::to_string(bytes) + " bytes a group, not groups of 8 with 2 to 4");
    }
    if (rows == 0 || count == 0) return;
    const Operands at{codes, errors, feedback, target, shares, rows, columns, first, static_cast<int>(count)};
    with_bytes(bytes, [&]<int group_bytes>() {
        launch(ldlq_block_kernel<group_bytes>, sweep_blocks(rows), sweep_threads, shared_bytes, stream, at,
               e8p::tables());
    });
}

}  // namespace pvtune::cuda
