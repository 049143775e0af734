// out = left * H (X (H (right * in))) + bias for one row, W never in memory: a vector scaled, transformed, multiplied
// with the decoded codes (a warp a row; bound by the reading of the codes), transformed and scaled again.

#include "cuda/lattice.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;
constexpr int warps = block_threads / warp_size;

template <class T>
__global__ void __launch_bounds__(block_threads)
    scale_input_kernel(float* out, const T* in, const float* right, std::int64_t columns) {
    const std::int64_t j = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (j < columns) out[j] = to_float(in[j]) * right[j];
}

template <int bytes>
__global__ void __launch_bounds__(block_threads)
    multiply_codes_kernel(float* out, const float* in, const std::uint8_t* codes, const float* scale, std::int64_t rows,
                          std::int64_t groups, const __grid_constant__ e8p::Tables constants) {
    __shared__ e8p::Tables tables;
    load_tables(tables, constants);
    __syncthreads();
    const std::int64_t row = std::int64_t{blockIdx.x} * warps + threadIdx.x / warp_size;
    if (row >= rows) return;  // whole warps
    float sum = 0;
    for (std::int64_t g = threadIdx.x % warp_size; g < groups; g += warp_size) {
        float point[lattice_group];
        decode_group<bytes>(point, tables.magnitudes, tables.residuals, codes + (row * groups + g) * bytes);
        float own[lattice_group];
        load_values(own, in + g * lattice_group);
#pragma unroll
        for (int i = 0; i < lattice_group; ++i) sum = fmaf(point[i], own[i], sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % warp_size == 0) out[row] = *scale * sum;
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    scale_output_kernel(T* out, const float* in, const float* left, const float* bias, std::int64_t rows) {
    const std::int64_t row = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (row >= rows) return;
    const float value = left[row] * in[row] + (bias != nullptr ? bias[row] : 0.0F);
    out[row] = from_float<T>(value);
}

unsigned blocks_for(std::int64_t count, int each) { return static_cast<unsigned>(ceil_divide(count, each)); }

std::int64_t padded(std::int64_t count) { return ceil_divide(count, 64) * 64; }

}  // namespace

std::size_t lattice_gemv_workspace(std::int64_t rows, std::int64_t columns) {
    return static_cast<std::size_t>(padded(rows) + padded(columns)) * sizeof(float);
}

template <class T>
void lattice_gemv(T* out, const T* in, const float* bias, const LatticeView& lattice, const DenseFactor& of_rows,
                  const DenseFactor& of_columns, void* workspace, Stream stream) {
    check_lattice(lattice);
    if (lattice.rows * lattice.groups == 0) return;
    const std::int64_t columns = lattice.columns();
    auto* const turned = static_cast<float*>(workspace);
    float* const product = turned + padded(columns);
    launch(scale_input_kernel<T>, blocks_for(columns, block_threads), block_threads, 0, stream, turned, in,
           lattice.right, columns);
    hadamard_transform(turned, 1, columns, of_columns.matrix, of_columns.order, stream);
    with_bytes(lattice.bytes, [&]<int bytes>() {
        launch(multiply_codes_kernel<bytes>, blocks_for(lattice.rows, warps), block_threads, 0, stream, product, turned,
               lattice.codes, lattice.scale, lattice.rows, lattice.groups, e8p::tables());
    });
    hadamard_transform(product, 1, lattice.rows, of_rows.matrix, of_rows.order, stream);
    launch(scale_output_kernel<T>, blocks_for(lattice.rows, block_threads), block_threads, 0, stream, out, product,
           lattice.left, bias, lattice.rows);
}

template void lattice_gemv(float*, const float*, const float*, const LatticeView&, const DenseFactor&,
                           const DenseFactor&, void*, Stream);
template void lattice_gemv(bf16*, const bf16*, const float*, const LatticeView&, const DenseFactor&, const DenseFactor&,
                           void*, Stream);

}  // namespace pvtune::cuda
