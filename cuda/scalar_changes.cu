// What the strategies of a V step ask of scalar grids: the nearest other code of a weight, its distance, what a change
// of codes does to the loss, and the change that pays first. A thread a weight, in the arithmetic of
// host/backend/cpu/scalar_changes.cpp.

#include "cuda/scalar.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

unsigned blocks_for(std::int64_t count) { return static_cast<unsigned>(ceil_divide(count, block_threads)); }

__device__ inline std::int64_t thread_index() { return std::int64_t{blockIdx.x} * block_threads + threadIdx.x; }

__global__ void __launch_bounds__(block_threads)
    scalar_different_kernel(ScalarView scalar, std::uint8_t* changed, const float* __restrict__ target,
                            const std::uint32_t* __restrict__ chosen, std::int64_t count, GridFinder finder) {
    const std::int64_t i = thread_index();
    if (i >= count || changed[i] != 0) return;
    const std::uint32_t at = chosen[i];
    const std::uint32_t grid = finder.grid_of(at);
    const float place = target[at] / scalar.scales[grid] + scalar.zeros[grid];
    if (!(fabsf(place) < INFINITY)) return;
    const auto highest = static_cast<float>(scalar.levels - 1);
    const auto present = static_cast<float>(scalar.codes[at]);
    float code = fminf(fmaxf(ceilf(place - 0.5F), 0.0F), highest);
    if (code == present) {
        const bool up = present == 0 || (place > present && present < highest);
        code = up ? present + 1 : present - 1;
    }
    scalar.codes[at] = static_cast<std::uint8_t>(code);
    changed[i] = 1;
}

__global__ void __launch_bounds__(block_threads)
    scalar_distance_kernel(float* distance, ScalarView scalar, const float* __restrict__ target,
                           const std::uint32_t* __restrict__ chosen, std::int64_t count, GridFinder finder) {
    const std::int64_t i = thread_index();
    if (i >= count) return;
    const std::uint32_t at = chosen[i];
    const std::uint32_t grid = finder.grid_of(at);
    const float steps = static_cast<float>(scalar.codes[at]) - scalar.zeros[grid];
    const float rest = fmaf(-scalar.scales[grid], steps, target[at]);
    distance[i] = rest * rest;
}

__global__ void __launch_bounds__(block_threads)
    scalar_product_kernel(float* product, ScalarView scalar, const float* __restrict__ matrix,
                          const std::uint8_t* __restrict__ saved, const std::uint32_t* __restrict__ chosen,
                          std::int64_t count, GridFinder finder) {
    const std::int64_t i = thread_index();
    if (i >= count) return;
    const std::uint32_t at = chosen[i];
    const int steps = static_cast<int>(scalar.codes[at]) - static_cast<int>(saved[i]);
    const float moved = scalar.scales[finder.grid_of(at)] * static_cast<float>(steps);
    product[i] = matrix[at] * moved;
}

template <class Moment>
__global__ void __launch_bounds__(block_threads)
    scalar_eager_score_kernel(float* scores, std::uint32_t* changes, ScalarView scalar,
                              const float* __restrict__ gradient, const Moment* __restrict__ second_moment,
                              std::int64_t count, GridFinder finder, float correction, float epsilon) {
    const std::int64_t at = thread_index();
    if (at >= count) return;
    const float scale = scalar.scales[finder.grid_of(static_cast<std::uint32_t>(at))];
    const float g = gradient[at];
    const float slope = g * scale;
    const int code = scalar.codes[at];
    const int next = slope < 0 ? code + 1 : code - 1;
    const bool descends = (slope < 0 || slope > 0) && next >= 0 && next < static_cast<int>(scalar.levels);
    const float curvature = sqrtf(to_float(second_moment[at]) * correction) + epsilon;
    const float length = fabsf(scale) * curvature;
    const bool found = descends && length > 0;
    scores[at] = found ? fabsf(g) / length : -INFINITY;
    changes[at] = static_cast<std::uint32_t>(found ? next : code);
}

}  // namespace

void scalar_different(const ScalarView& scalar, std::uint8_t* changed, const float* target, const std::uint32_t* chosen,
                      std::int64_t count, Stream stream) {
    check_scalar(scalar);
    if (count == 0) return;
    launch(scalar_different_kernel, blocks_for(count), block_threads, 0, stream, scalar, changed, target, chosen, count,
           GridFinder(scalar, 1));
}

void scalar_distance(float* distance, const ScalarView& scalar, const float* target, const std::uint32_t* chosen,
                     std::int64_t count, Stream stream) {
    check_scalar(scalar);
    if (count == 0) return;
    launch(scalar_distance_kernel, blocks_for(count), block_threads, 0, stream, distance, scalar, target, chosen, count,
           GridFinder(scalar, 1));
}

void scalar_product(float* product, const ScalarView& scalar, const float* matrix, const std::uint8_t* saved,
                    const std::uint32_t* chosen, std::int64_t count, Stream stream) {
    check_scalar(scalar);
    if (count == 0) return;
    launch(scalar_product_kernel, blocks_for(count), block_threads, 0, stream, product, scalar, matrix, saved, chosen,
           count, GridFinder(scalar, 1));
}

template <class Moment>
void scalar_eager_score(float* scores, std::uint32_t* changes, const ScalarView& scalar, const float* gradient,
                        const Moment* second_moment, float correction, float epsilon, Stream stream) {
    check_scalar(scalar);
    const std::int64_t count = scalar.rows * scalar.columns;
    if (count == 0) return;
    launch(scalar_eager_score_kernel<Moment>, blocks_for(count), block_threads, 0, stream, scores, changes, scalar,
           gradient, second_moment, count, GridFinder(scalar, 1), correction, epsilon);
}

template void scalar_eager_score(float*, std::uint32_t*, const ScalarView&, const float*, const float*, float, float,
                                 Stream);
template void scalar_eager_score(float*, std::uint32_t*, const ScalarView&, const float*, const bf16*, float, float,
                                 Stream);

}  // namespace pvtune::cuda
