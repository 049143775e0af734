// The V step on scalar grids: the nearest code of a chosen weight, and how far it moved. A thread a weight, in the
// arithmetic of host/backend/cpu/assign_scalar.cpp.

#include "cuda/scalar.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

unsigned blocks_for(std::int64_t count) { return static_cast<unsigned>(ceil_divide(count, block_threads)); }

__global__ void __launch_bounds__(block_threads)
    assign_scalar_kernel(ScalarView scalar, std::uint8_t* changed, const float* __restrict__ target,
                         const std::uint32_t* __restrict__ chosen, std::int64_t count, GridFinder finder) {
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= count) return;
    const std::uint32_t at = chosen[i];
    const std::uint32_t grid = finder.grid_of(at);
    const float place = target[at] / scalar.scales[grid] + scalar.zeros[grid];
    const std::uint8_t before = scalar.codes[at];
    std::uint8_t code = before;
    // Half way between two codes is the lower one's.
    if (fabsf(place) < INFINITY) {
        const auto highest = static_cast<float>(scalar.levels - 1);
        code = static_cast<std::uint8_t>(fminf(fmaxf(ceilf(place - 0.5F), 0.0F), highest));
    }
    changed[i] = code != before;
    scalar.codes[at] = code;
}

__global__ void __launch_bounds__(block_threads)
    scalar_change_kernel(float* change, ScalarView scalar, const std::uint8_t* __restrict__ saved,
                         const std::uint32_t* __restrict__ chosen, std::int64_t count, GridFinder finder) {
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= count) return;
    const std::uint32_t at = chosen[i];
    const int steps = static_cast<int>(scalar.codes[at]) - static_cast<int>(saved[i]);
    const float moved = scalar.scales[finder.grid_of(at)] * static_cast<float>(steps);
    change[i] = moved * moved;
}

}  // namespace

void assign_scalar(const ScalarView& scalar, std::uint8_t* changed, const float* target, const std::uint32_t* chosen,
                   std::int64_t count, Stream stream) {
    check_scalar(scalar);
    if (count == 0) return;
    launch(assign_scalar_kernel, blocks_for(count), block_threads, 0, stream, scalar, changed, target, chosen, count,
           GridFinder(scalar, 1));
}

void scalar_change(float* change, const ScalarView& scalar, const std::uint8_t* saved, const std::uint32_t* chosen,
                   std::int64_t count, Stream stream) {
    check_scalar(scalar);
    if (count == 0) return;
    launch(scalar_change_kernel, blocks_for(count), block_threads, 0, stream, change, scalar, saved, chosen, count,
           GridFinder(scalar, 1));
}

}  // namespace pvtune::cuda
