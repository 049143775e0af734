// d_scales[o, g] = sum of d_weight * (code - zero), d_zeros[o, g] = -scale * sum of d_weight, over the weights of a
// grid: 8, 16 or 32 lanes sum a grid of 32, 64 or more columns, 4 weights each at a time. One read of d_weight.

#include "cuda/scalar.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

template <int lanes, int piece>
__global__ void __launch_bounds__(block_threads)
    scalar_gradient_kernel(float* d_scales, float* d_zeros, const float* __restrict__ d_weight, ScalarView scalar,
                           std::int64_t grid_count, Divisor grids_divisor, std::uint32_t grids) {
    const std::int64_t grid = (std::int64_t{blockIdx.x} * block_threads + threadIdx.x) / lanes;
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    float scale_sum = 0;
    float sum = 0;
    if (grid < grid_count) {
        const std::int64_t row = grids_divisor.quotient(static_cast<std::uint32_t>(grid));
        const std::int64_t first = (grid - row * grids) * scalar.group;
        const std::int64_t end = min(scalar.columns, first + scalar.group);
        const float zero = scalar.zeros[grid];
        for (std::int64_t i = first + lane * piece; i < end; i += lanes * piece) {
            float gradients[piece];
            float codes[piece];
            load_values<piece>(gradients, d_weight + row * scalar.columns + i);
            load_codes<piece>(codes, scalar.codes + row * scalar.columns + i);
#pragma unroll
            for (int j = 0; j < piece; ++j) {
                scale_sum = fmaf(gradients[j], codes[j] - zero, scale_sum);
                sum += gradients[j];
            }
        }
    }
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
        scale_sum += __shfl_xor_sync(whole_warp, scale_sum, offset);
        sum += __shfl_xor_sync(whole_warp, sum, offset);
    }
    if (grid >= grid_count || lane != 0) return;
    d_scales[grid] = scale_sum;
    d_zeros[grid] = -scalar.scales[grid] * sum;
}

template <int lanes, int piece>
void start(float* d_scales, float* d_zeros, const float* d_weight, const ScalarView& scalar, Stream stream) {
    const std::int64_t grids = grids_a_row(scalar);
    const std::int64_t count = scalar.rows * grids;
    const auto blocks = static_cast<unsigned>(ceil_divide(count * lanes, block_threads));
    launch(scalar_gradient_kernel<lanes, piece>, blocks, block_threads, 0, stream, d_scales, d_zeros, d_weight, scalar,
           count, Divisor(grids), static_cast<std::uint32_t>(grids));
}

template <int piece>
void start(float* d_scales, float* d_zeros, const float* d_weight, const ScalarView& scalar, Stream stream) {
    constexpr std::int64_t few = 32;
    constexpr std::int64_t some = 64;
    if (scalar.group <= few) return start<8, piece>(d_scales, d_zeros, d_weight, scalar, stream);
    if (scalar.group <= some) return start<16, piece>(d_scales, d_zeros, d_weight, scalar, stream);
    start<32, piece>(d_scales, d_zeros, d_weight, scalar, stream);
}

}  // namespace

void scalar_gradient(float* d_scales, float* d_zeros, const float* d_weight, const ScalarView& scalar, Stream stream) {
    check_scalar(scalar);
    if (scalar.rows * scalar.columns == 0) return;
    in_pieces(scalar, 4) ? start<4>(d_scales, d_zeros, d_weight, scalar, stream)
                         : start<1>(d_scales, d_zeros, d_weight, scalar, stream);
}

}  // namespace pvtune::cuda
