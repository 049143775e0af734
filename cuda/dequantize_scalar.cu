// weight[o, i] = scales[o, g] * (codes[o, i] - zeros[o, g]), g = i / group: 8 weights a thread where they share a grid.
// Bound by the writing of the weight.

#include "cuda/scalar.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

template <class T, int piece>
__global__ void __launch_bounds__(block_threads)
    dequantize_scalar_kernel(T* __restrict__ weight, const std::uint8_t* __restrict__ codes,
                             const float* __restrict__ scales, const float* __restrict__ zeros, std::int64_t pieces,
                             GridFinder finder) {
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= pieces) return;
    const std::uint32_t grid = finder.grid_of(static_cast<std::uint32_t>(i));
    const float scale = scales[grid];
    const float zero = zeros[grid];
    float values[piece];
    load_codes<piece>(values, codes + i * piece);
#pragma unroll
    for (int j = 0; j < piece; ++j) values[j] = scale * (values[j] - zero);
    store_values<piece>(weight + i * piece, values);
}

template <class T, int piece>
void start(T* weight, const ScalarView& scalar, Stream stream) {
    const std::int64_t pieces = scalar.rows * scalar.columns / piece;
    if (pieces == 0) return;
    launch(dequantize_scalar_kernel<T, piece>, static_cast<unsigned>(ceil_divide(pieces, block_threads)), block_threads,
           0, stream, weight, scalar.codes, scalar.scales, scalar.zeros, pieces, GridFinder(scalar, piece));
}

}  // namespace

template <class T>
void dequantize_scalar(T* weight, const ScalarView& scalar, Stream stream) {
    check_scalar(scalar);
    in_pieces(scalar, 8) ? start<T, 8>(weight, scalar, stream) : start<T, 1>(weight, scalar, stream);
}

template void dequantize_scalar(float*, const ScalarView&, Stream);
template void dequantize_scalar(bf16*, const ScalarView&, Stream);

}  // namespace pvtune::cuda
