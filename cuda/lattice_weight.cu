// Weights from E8P codes behind Hadamard transforms, W = diag(left) H X H diag(right), and gradients the same way back.
// Columns are transformed as rows of the transposed matrix, so that both transforms run from shared memory
// (cuda/hadamard.cu); what is left are passes over the matrix in f32, each bound by its reads and writes.

#include "cuda/lattice.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;
constexpr int tile = 32;
constexpr int tile_rows = 8;  // of threads
constexpr int warps = block_threads / warp_size;

/// A thread a group. scores null: values = X. Else values becomes X + values, and scores what values had, squared and
/// summed by group. scale null: 1.
template <int bytes>
__global__ void __launch_bounds__(block_threads)
    decode_lattice_kernel(float* values, float* scores, const std::uint8_t* codes, const float* scale,
                          std::int64_t groups, const __grid_constant__ e8p::Tables constants) {
    __shared__ e8p::Tables tables;
    load_tables(tables, constants);
    __syncthreads();
    const std::int64_t at = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (at >= groups) return;
    float point[lattice_group];
    decode_group<bytes>(point, tables.magnitudes, tables.residuals, codes + at * bytes);
    const float factor = scale != nullptr ? *scale : 1.0F;
    float* const own = values + at * lattice_group;
    float square = 0;
#pragma unroll
    for (int i = 0; i < lattice_group; i += lanes_of<float>) {
        float part[lanes_of<float>] = {};
        if (scores != nullptr) load_lanes(part, own + i);
#pragma unroll
        for (int k = 0; k < lanes_of<float>; ++k) {
            square += part[k] * part[k];
            part[k] += factor * point[i + k];
        }
        store_lanes(own + i, part);
    }
    if (scores != nullptr) scores[at] = square;
}

/// out = left[row] * (wanted - weight) * right[column]; a row of blocks a row. out may be wanted.
template <class T>
__global__ void __launch_bounds__(block_threads)
    scaled_difference_kernel(float* out, const float* wanted, const T* weight, const float* left, const float* right,
                             std::int64_t columns) {
    const std::int64_t row = blockIdx.x;
    for (std::int64_t j = threadIdx.x; j < columns; j += block_threads) {
        const std::int64_t at = row * columns + j;
        out[at] = left[row] * (wanted[at] - to_float(weight[at])) * right[j];
    }
}

/// out [columns, rows] = in [rows, columns], transposed.
__global__ void __launch_bounds__(tile* tile_rows)
    transpose_kernel(float* out, const float* in, std::int64_t rows, std::int64_t columns) {
    __shared__ float values[tile][tile + 1];
    const int x = static_cast<int>(threadIdx.x) % tile;
    const int y = static_cast<int>(threadIdx.x) / tile;
    const std::int64_t first_row = std::int64_t{blockIdx.y} * tile;
    const std::int64_t first_column = std::int64_t{blockIdx.x} * tile;
    for (int i = y; i < tile; i += tile_rows) {
        if (first_row + i < rows && first_column + x < columns) {
            values[i][x] = in[(first_row + i) * columns + first_column + x];
        }
    }
    __syncthreads();
    for (int i = y; i < tile; i += tile_rows) {
        if (first_column + i < columns && first_row + x < rows) {
            out[(first_column + i) * rows + first_row + x] = values[x][i];
        }
    }
}

/// out = left[row] * in * right[column]; a row of blocks a row. out may be in.
template <class T>
__global__ void __launch_bounds__(block_threads)
    scale_sides_kernel(T* out, const float* in, const float* left, const float* right, std::int64_t columns) {
    const std::int64_t row = blockIdx.x;
    for (std::int64_t j = threadIdx.x; j < columns; j += block_threads) {
        out[row * columns + j] = from_float<T>(left[row] * in[row * columns + j] * right[j]);
    }
}

/// A block a row of values = H X H (of scale 1): sums[row] = <values * d_weight, right>, and values becomes
/// scale * left * values * d_weight, what the columns' sums are made of.
__global__ void __launch_bounds__(block_threads)
    side_products_kernel(float* sums, float* d_left, float* values, const float* d_weight, LatticeView lattice) {
    __shared__ double partials[warps];
    const std::int64_t row = blockIdx.x;
    const std::int64_t columns = lattice.groups * lattice_group;
    const float scale = *lattice.scale;
    const float factor = scale * lattice.left[row];
    double sum = 0;
    for (std::int64_t j = threadIdx.x; j < columns; j += block_threads) {
        const std::int64_t at = row * columns + j;
        const float product = values[at] * d_weight[at];
        sum += static_cast<double>(product) * static_cast<double>(lattice.right[j]);
        values[at] = factor * product;
    }
    sum = block_sum(sum, partials);
    if (threadIdx.x != 0) return;
    sums[row] = static_cast<float>(sum);
    d_left[row] = static_cast<float>(sum * static_cast<double>(scale));
}

/// d_scale = <left, sums>.
__global__ void __launch_bounds__(block_threads)
    scale_gradient_kernel(float* d_scale, const float* left, const float* sums, std::int64_t rows) {
    __shared__ double partials[warps];
    double sum = 0;
    for (std::int64_t row = threadIdx.x; row < rows; row += block_threads) {
        sum += static_cast<double>(left[row]) * static_cast<double>(sums[row]);
    }
    sum = block_sum(sum, partials);
    if (threadIdx.x == 0) *d_scale = static_cast<float>(sum);
}

void transpose(float* out, const float* in, std::int64_t rows, std::int64_t columns, Stream stream) {
    const dim3 grid(static_cast<unsigned>(ceil_divide(columns, tile)), static_cast<unsigned>(ceil_divide(rows, tile)));
    launch(transpose_kernel, grid, tile * tile_rows, 0, stream, out, in, rows, columns);
}

void decode(float* values, float* scores, const LatticeView& lattice, const float* scale, Stream stream) {
    const std::int64_t groups = lattice.rows * lattice.groups;
    with_bytes(lattice.bytes, [&]<int bytes>() {
        launch(decode_lattice_kernel<bytes>, static_cast<unsigned>(ceil_divide(groups, block_threads)), block_threads,
               0, stream, values, scores, lattice.codes, scale, groups, e8p::tables());
    });
}

template <class T>
void scale_sides(T* out, const float* in, const LatticeView& lattice, Stream stream) {
    launch(scale_sides_kernel<T>, static_cast<unsigned>(lattice.rows), block_threads, 0, stream, out, in, lattice.left,
           lattice.right, lattice.columns());
}

/// Two matrices and the sums of the rows, then what column_sum takes.
struct WeightWorkspace {
    float *values, *turned, *sums;
    void* rest;

    WeightWorkspace(void* memory, std::int64_t rows, std::int64_t columns)
        : values(static_cast<float*>(memory)),
          turned(values + ceil_divide(rows * columns, 64) * 64),
          sums(turned + ceil_divide(rows * columns, 64) * 64),
          rest(sums + ceil_divide(rows, 64) * 64) {}
};

/// values = H values H, with `turned` as large.
void transform_sides(float* values, float* turned, const LatticeView& lattice, const DenseFactor& of_rows,
                     const DenseFactor& of_columns, Stream stream) {
    const std::int64_t columns = lattice.columns();
    hadamard_transform(values, lattice.rows, columns, of_columns.matrix, of_columns.order, stream);
    transpose(turned, values, lattice.rows, columns, stream);
    hadamard_transform(turned, columns, lattice.rows, of_rows.matrix, of_rows.order, stream);
    transpose(values, turned, columns, lattice.rows, stream);
}

}  // namespace

std::size_t lattice_weight_workspace(std::int64_t rows, std::int64_t columns) {
    const WeightWorkspace parts(nullptr, rows, columns);
    return reinterpret_cast<std::uintptr_t>(parts.rest) + column_sum_workspace(rows, columns);
}

template <class T>
void dequantize_lattice(T* weight, const LatticeView& lattice, const DenseFactor& of_rows,
                        const DenseFactor& of_columns, void* workspace, Stream stream) {
    check_lattice(lattice);
    if (lattice.rows * lattice.groups == 0) return;
    const WeightWorkspace parts(workspace, lattice.rows, lattice.columns());
    decode(parts.values, nullptr, lattice, lattice.scale, stream);
    transform_sides(parts.values, parts.turned, lattice, of_rows, of_columns, stream);
    scale_sides(weight, parts.values, lattice, stream);
}

void lattice_code_gradient(float* d_weight, const LatticeView& lattice, const DenseFactor& of_rows,
                           const DenseFactor& of_columns, void* workspace, Stream stream) {
    check_lattice(lattice);
    if (lattice.rows * lattice.groups == 0) return;
    const WeightWorkspace parts(workspace, lattice.rows, lattice.columns());
    scale_sides(d_weight, d_weight, lattice, stream);
    transform_sides(d_weight, parts.turned, lattice, of_rows, of_columns, stream);
}

template <class T>
void lattice_target(float* target, float* scores, const float* wanted, const T* weight, const LatticeView& lattice,
                    const DenseFactor& of_rows, const DenseFactor& of_columns, void* workspace, Stream stream) {
    check_lattice(lattice);
    if (lattice.rows * lattice.groups == 0) return;
    const WeightWorkspace parts(workspace, lattice.rows, lattice.columns());
    launch(scaled_difference_kernel<T>, static_cast<unsigned>(lattice.rows), block_threads, 0, stream, target, wanted,
           weight, lattice.left, lattice.right, lattice.columns());
    transform_sides(target, parts.turned, lattice, of_rows, of_columns, stream);
    decode(target, scores, lattice, lattice.scale, stream);
}

void lattice_gradient(float* d_scale, float* d_left, float* d_right, const float* d_weight, const LatticeView& lattice,
                      const DenseFactor& of_rows, const DenseFactor& of_columns, void* workspace, Stream stream) {
    check_lattice(lattice);
    if (lattice.rows * lattice.groups == 0) return;
    const std::int64_t columns = lattice.columns();
    const WeightWorkspace parts(workspace, lattice.rows, columns);
    decode(parts.values, nullptr, lattice, nullptr, stream);
    transform_sides(parts.values, parts.turned, lattice, of_rows, of_columns, stream);
    launch(side_products_kernel, static_cast<unsigned>(lattice.rows), block_threads, 0, stream, parts.sums, d_left,
           parts.values, d_weight, lattice);
    launch(scale_gradient_kernel, 1, block_threads, 0, stream, d_scale, lattice.left, parts.sums, lattice.rows);
    check(cudaMemsetAsync(d_right, 0, static_cast<std::size_t>(columns) * sizeof(float), stream),
          "a gradient set to 0");
    column_sum(d_right, static_cast<const float*>(parts.values), lattice.rows, columns, parts.rest, stream);
}

template void dequantize_lattice(float*, const LatticeView&, const DenseFactor&, const DenseFactor&, void*, Stream);
template void dequantize_lattice(bf16*, const LatticeView&, const DenseFactor&, const DenseFactor&, void*, Stream);
template void lattice_target(float*, float*, const float*, const float*, const LatticeView&, const DenseFactor&,
                             const DenseFactor&, void*, Stream);
template void lattice_target(float*, float*, const float*, const bf16*, const LatticeView&, const DenseFactor&,
                             const DenseFactor&, void*, Stream);

}  // namespace pvtune::cuda
