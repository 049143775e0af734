// out = W in (+ bias) straight from the codes, W[o, i] = scales[o, g] * (codes[o, i] - zeros[o, g]): a warp a row, 8
// columns a lane at a time where they share a grid. Bound by the reading of the codes; `in` stays in the caches.

#include "cuda/reduce.cuh"
#include "cuda/scalar.cuh"

namespace pvtune::cuda {

namespace {

constexpr int warps = 4;
constexpr int block_threads = warps * warp_size;

template <class T, int piece>
__global__ void __launch_bounds__(block_threads)
    scalar_gemv_kernel(T* out, const T* __restrict__ in, const float* __restrict__ bias, ScalarView scalar,
                       std::int64_t grids, Divisor group) {
    const std::int64_t row = std::int64_t{blockIdx.x} * warps + threadIdx.x / warp_size;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    float sum = 0;
    if (row < scalar.rows) {
        const std::uint8_t* const row_codes = scalar.codes + row * scalar.columns;
        const auto pieces = static_cast<std::uint32_t>(scalar.columns / piece);
        for (std::uint32_t i = static_cast<std::uint32_t>(lane); i < pieces; i += warp_size) {
            const std::int64_t grid = row * grids + group.quotient(i);
            const float scale = scalar.scales[grid];
            const float zero = scalar.zeros[grid];
            float codes[piece];
            float values[piece];
            load_codes<piece>(codes, row_codes + std::int64_t{i} * piece);
            load_values<piece>(values, in + std::int64_t{i} * piece);
            float part = 0;
#pragma unroll
            for (int j = 0; j < piece; ++j) part = fmaf(codes[j] - zero, values[j], part);
            sum = fmaf(scale, part, sum);
        }
    }
    sum = warp_sum(sum);
    if (row >= scalar.rows || lane != 0) return;
    out[row] = from_float<T>(bias != nullptr ? sum + bias[row] : sum);
}

template <class T, int piece>
void start(T* out, const T* in, const float* bias, const ScalarView& scalar, Stream stream) {
    launch(scalar_gemv_kernel<T, piece>, static_cast<unsigned>(ceil_divide(scalar.rows, warps)), block_threads, 0,
           stream, out, in, bias, scalar, grids_a_row(scalar), Divisor(ceil_divide(scalar.group, piece)));
}

}  // namespace

template <class T>
void scalar_gemv(T* out, const T* in, const float* bias, const ScalarView& scalar, Stream stream) {
    check_scalar(scalar);
    if (scalar.rows == 0) return;
    in_pieces(scalar, 8) ? start<T, 8>(out, in, bias, scalar, stream) : start<T, 1>(out, in, bias, scalar, stream);
}

template void scalar_gemv(float*, const float*, const float*, const ScalarView&, Stream);
template void scalar_gemv(bf16*, const bf16*, const float*, const ScalarView&, Stream);

}  // namespace pvtune::cuda
