// codes[i] = the row of `centres` nearest to points[i], ties: the lower one; a point that is not finite keeps its code.
// Bound by arithmetic: count * centre_count * dim multiply-adds (nearest_codeword.cuh); a thread has four points where
// there are enough to fill the device, else one.

#include "cuda/kernels.h"
#include "cuda/nearest_codeword.cuh"

#include <stdexcept>
#include <string>

namespace pvtune::cuda {

namespace {

template <int dim, int points_a_thread>
__global__ void __launch_bounds__(nearest_threads, dim == 16 ? 5 : 6)
    kmeans_assign_kernel(std::uint16_t* codes, const float* __restrict__ points, const float* __restrict__ centres,
                         std::int64_t count, int centre_count) {
    __shared__ CodewordTile<dim> tile;
    const std::int64_t first = std::int64_t{blockIdx.x} * nearest_threads * points_a_thread + threadIdx.x;
    float doubled[points_a_thread][dim];
#pragma unroll
    for (int p = 0; p < points_a_thread; ++p) {
        load_point<dim>(doubled[p], points + min(first + p * nearest_threads, count - 1) * dim);
#pragma unroll
        for (int i = 0; i < dim; ++i) doubled[p][i] *= -2;
    }
    const auto nearest = nearest_codewords<dim, points_a_thread>(doubled, centres, 0, centre_count, tile);
#pragma unroll
    for (int p = 0; p < points_a_thread; ++p) {
        const std::int64_t i = first + p * nearest_threads;
        if (i < count && nearest.at[p] != nearest.no_codeword) codes[i] = static_cast<std::uint16_t>(nearest.at[p]);
    }
}

template <int dim>
void start(std::uint16_t* codes, const float* points, const float* centres, std::int64_t count,
           std::int64_t centre_count, Stream stream) {
    constexpr int most_points = dim == 16 ? 2 : 4;  // what registers hold
    constexpr std::int64_t enough = 264;            // blocks, two for each of 132 multiprocessors
    const auto blocks = [count](int points_a_thread) {
        return static_cast<unsigned>(ceil_divide(count, std::int64_t{nearest_threads} * points_a_thread));
    };
    if (blocks(most_points) >= enough) {
        launch(kmeans_assign_kernel<dim, most_points>, blocks(most_points), nearest_threads, 0, stream, codes, points,
               centres, count, static_cast<int>(centre_count));
    } else {
        launch(kmeans_assign_kernel<dim, 1>, blocks(1), nearest_threads, 0, stream, codes, points, centres, count,
               static_cast<int>(centre_count));
    }
}

}  // namespace

void kmeans_assign(std::uint16_t* codes, const float* points, const float* centres, std::int64_t count,
                   std::int64_t centre_count, std::int64_t dim, Stream stream) {
    constexpr std::int64_t most = std::int64_t{1} << 16;
    if ((dim != 4 && dim != 8 && dim != 16) || centre_count < 1 || centre_count > most) {
        throw std::invalid_argument("nearest of " + std::to_string(centre_count) + " centres with " +
                                    std::to_string(dim) + " dimensions (4, 8 or 16)");
    }
    if (count == 0) return;
    const auto start_kernel = dim == 4 ? start<4> : dim == 8 ? start<8> : start<16>;
    start_kernel(codes, points, centres, count, centre_count, stream);
}

}  // namespace pvtune::cuda
