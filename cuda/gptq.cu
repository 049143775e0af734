// GPTQ (Frantar et al. 2022) within a block of columns, all rows at once: columns are rounded one after the other, each
// after what the errors of those before it ask for. Eight lanes a row hold its columns of the block, 16 each, in
// registers; the shares of the block lie in shared memory. A column's chain is a division, a shuffle and a
// multiply-add, so what counts is that all multiprocessors have rows. Errors reach the columns behind the block by a
// matrix product (host/backend/cuda/gptq_sweep.cpp).

#include "cuda/code_sweep.cuh"
#include "cuda/scalar.cuh"

namespace pvtune::cuda {

namespace {

struct Operands {
    ScalarView scalar;
    float* errors;
    const float* feedback;
    const float* weight;
    const float* shares;
    const std::uint32_t* order;
    std::int64_t first;
    int count;
    Divisor group;
};

__global__ void __launch_bounds__(sweep_threads) gptq_block_kernel(const __grid_constant__ Operands at) {
    float* const shares = dynamic_shared<float>();
    load_shares(shares, at.shares, at.scalar.columns, at.first, at.count);
    __syncthreads();
    const int lane = static_cast<int>(threadIdx.x) % row_lanes;
    const std::int64_t own_row = std::int64_t{blockIdx.x} * sweep_rows + threadIdx.x / row_lanes;
    const bool inside = own_row < at.scalar.rows;
    const std::int64_t row = inside ? own_row : at.scalar.rows - 1;  // for the shuffles
    const std::int64_t row_start = row * at.scalar.columns;
    const std::int64_t grids = row * ceil_divide(at.scalar.columns, at.scalar.group);
    const auto highest = static_cast<float>(at.scalar.levels - 1);

    float weights[lane_columns], sums[lane_columns], scales[lane_columns], zeros[lane_columns];
#pragma unroll
    for (int k = 0; k < lane_columns; ++k) {
        const int j = k * row_lanes + lane;
        weights[k] = sums[k] = zeros[k] = 0;
        scales[k] = 1;
        if (j >= at.count) continue;
        const std::uint32_t column = at.order[at.first + j];
        const std::int64_t grid = grids + at.group.quotient(column);
        weights[k] = at.weight[row_start + column];
        sums[k] = at.feedback[row_start + at.first + j];
        scales[k] = at.scalar.scales[grid];
        zeros[k] = at.scalar.zeros[grid];
    }
#pragma unroll
    for (int k = 0; k < lane_columns; ++k) {
        if (k * row_lanes >= at.count) break;
        float own_code = 0;
        float own_error = 0;
#pragma unroll 1
        for (int c = 0; c < row_lanes; ++c) {
            // In every lane, but only lane c has all of its sum by now.
            const float place = (weights[k] + sums[k]) / scales[k] + zeros[k];
            // Half way between two codes is the lower one's.
            const float code = fminf(fmaxf(ceilf(place - 0.5F), 0.0F), highest);
            const float error = fmaf(-scales[k], code - zeros[k], weights[k]);
            if (lane == c) {
                own_code = code;
                own_error = error;
            }
            const float given = __shfl_sync(whole_warp, error, c, row_lanes);
            const float* const from = shares + (k * row_lanes + c) * share_stride + lane;
#pragma unroll
            for (int other = k; other < lane_columns; ++other) {
                sums[other] = fmaf(from[other * row_lanes], given, sums[other]);
            }
        }
        const int j = k * row_lanes + lane;
        if (!inside || j >= at.count) continue;
        at.scalar.codes[row_start + at.order[at.first + j]] = static_cast<std::uint8_t>(own_code);
        at.errors[row * at.count + j] = own_error;
    }
}

}  // namespace

void gptq_block(const ScalarView& scalar, float* errors, const float* feedback, const float* weight,
                const float* shares, const std::uint32_t* order, std::int64_t first, std::int64_t count,
                Stream stream) {
    check_scalar(scalar);
    check_block("gptq_block", scalar.columns, first, count);
    if (scalar.rows == 0 || count == 0) return;
    const Operands at{
        scalar, errors, feedback, weight, shares, order, first, static_cast<int>(count), Divisor(scalar.group)};
    launch(gptq_block_kernel, sweep_blocks(scalar.rows), sweep_threads, share_floats * sizeof(float), stream, at);
}

}  // namespace pvtune::cuda
