// additive_gradient for codebooks too large for copies in shared memory (2^12 codewords and more): sums in 64-bit fixed
// point in device memory, by integer atomics, which commute. The first pass finds the largest |scale * dW|, and
// d_scales on the way; the unit is the power of two with which not even all groups at that size overflow: 2^-62 *
// groups * the largest, some 2^-40 of it for a matrix of 4096 x 4096. The second pass adds. A gradient that is not
// finite has no unit: then every codeword's gradient is NaN.

#include "cuda/additive_gradient_large.h"

#include "cuda/additive.cuh"
#include "cuda/reduce.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

struct Workspace {
    unsigned largest;  // bits of the largest |scale * dW|; a NaN is above infinity
};
constexpr std::size_t sums_offset = 256;

/// A block a row: the largest |scale * dW| and <dW, sum of codewords>.
template <int group, class Code>
__global__ void __launch_bounds__(block_threads)
    range_and_scales_kernel(Workspace* workspace, float* d_scales, const float* __restrict__ d_weight,
                            AdditiveView<Code> additive) {
    __shared__ float partials[block_threads / warp_size];
    const std::int64_t row = blockIdx.x;
    const auto books = static_cast<int>(additive.books);
    const float scale = additive.scales[row];
    const auto pieces = static_cast<int>(additive.groups) * (group / 4);
    const auto* gradient = reinterpret_cast<const float4*>(d_weight + row * additive.groups * group);
    const auto* codebooks = reinterpret_cast<const float4*>(additive.codebooks);
    const Code* codes = additive.codes + row * additive.groups * books;
    float sum = 0;
    unsigned largest = 0;
    const auto magnitude = [&](float value) { return __float_as_uint(scale * value) & 0x7fffffffU; };
    for (int i = static_cast<int>(threadIdx.x); i < pieces; i += block_threads) {
        const float4 g = gradient[i];
        largest = max(max(largest, max(magnitude(g.x), magnitude(g.y))), max(magnitude(g.z), magnitude(g.w)));
        const int at = i / (group / 4);
        for (int m = 0; m < books; ++m) {
            const std::int64_t codeword = m * additive.codebook_size + codes[std::int64_t{at} * books + m];
            const float4 c = codebooks[codeword * (group / 4) + i % (group / 4)];
            sum = fmaf(c.x, g.x, fmaf(c.y, g.y, fmaf(c.z, g.z, fmaf(c.w, g.w, sum))));
        }
    }
    largest = __reduce_max_sync(whole_warp, largest);
    if (threadIdx.x % warp_size == 0) atomicMax(&workspace->largest, largest);
    sum = block_sum(sum, partials);
    if (threadIdx.x == 0) d_scales[row] = sum;
}

/// Of the unit 2^-k: k, such that 2^group_bits terms below 2^(exponent of the largest + 1) stay below 2^62.
__device__ inline int unit_bits(unsigned largest, int group_bits) {
    const int exponent = static_cast<int>(largest >> 23);
    return 62 - group_bits - (exponent - 126);
}
__device__ inline double power_of_two(int exponent) { return __longlong_as_double((exponent + 1023LL) << 52); }

template <int group, class Code>
__global__ void __launch_bounds__(block_threads)
    add_fixed_point_kernel(unsigned long long* sums, const Workspace* workspace, const float* __restrict__ d_weight,
                           AdditiveView<Code> additive, Divisor row_groups, int group_bits) {
    const auto books = static_cast<int>(additive.books);
    const double units = power_of_two(unit_bits(workspace->largest, group_bits));
    const std::int64_t weights = additive.rows * additive.groups * group;
    const std::int64_t step = std::int64_t{gridDim.x} * block_threads;
    for (std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x; i < weights; i += step) {
        const std::int64_t g = i / group;
        const float value = additive.scales[row_groups.quotient(static_cast<std::uint32_t>(g))] * d_weight[i];
        const auto fixed = static_cast<unsigned long long>(__double2ll_rn(static_cast<double>(value) * units));
        for (int m = 0; m < books; ++m) {
            const std::int64_t codeword = m * additive.codebook_size + additive.codes[g * books + m];
            atomicAdd(sums + codeword * group + i % group, fixed);
        }
    }
}

__global__ void __launch_bounds__(block_threads)
    finish_kernel(float* d_codebooks, const unsigned long long* sums, const Workspace* workspace, std::int64_t entries,
                  int group_bits) {
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= entries) return;
    const unsigned largest = workspace->largest;
    const double unit = power_of_two(-unit_bits(largest, group_bits));
    const double value = static_cast<double>(static_cast<long long>(sums[i])) * unit;
    d_codebooks[i] = largest < 0x7f800000U ? static_cast<float>(value) : __uint_as_float(0x7fc00000U);
}

}  // namespace

template <class Code>
std::size_t large_gradient_workspace(const AdditiveView<Code>& additive) {
    const auto entries = static_cast<std::size_t>(additive.books * additive.codebook_size * additive.group);
    return sums_offset + entries * sizeof(unsigned long long);
}

template <class Code>
void large_gradient(float* d_codebooks, float* d_scales, const float* d_weight, const AdditiveView<Code>& additive,
                    void* workspace, Stream stream) {
    check(cudaMemsetAsync(workspace, 0, large_gradient_workspace(additive), stream), "clearing sums");
    auto* const range = static_cast<Workspace*>(workspace);
    auto* const sums = reinterpret_cast<unsigned long long*>(static_cast<std::byte*>(workspace) + sums_offset);
    int group_bits = 0;
    while ((std::int64_t{1} << group_bits) < additive.rows * additive.groups) ++group_bits;
    const std::int64_t entries = additive.books * additive.codebook_size * additive.group;
    with_group(additive.group, [&]<int group>() {
        launch(range_and_scales_kernel<group, Code>, static_cast<unsigned>(additive.rows), block_threads, 0, stream,
               range, d_scales, d_weight, additive);
        constexpr std::int64_t most_blocks = 4096;
        const std::int64_t blocks = ceil_divide(additive.rows * additive.groups * group, block_threads);
        launch(add_fixed_point_kernel<group, Code>, static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks),
               block_threads, 0, stream, sums, range, d_weight, additive, Divisor(additive.groups), group_bits);
    });
    launch(finish_kernel, static_cast<unsigned>(ceil_divide(entries, block_threads)), block_threads, 0, stream,
           d_codebooks, sums, range, entries, group_bits);
}

template std::size_t large_gradient_workspace(const AdditiveView<std::uint8_t>&);
template std::size_t large_gradient_workspace(const AdditiveView<std::uint16_t>&);
template void large_gradient(float*, float*, const float*, const AdditiveView<std::uint8_t>&, void*, Stream);
template void large_gradient(float*, float*, const float*, const AdditiveView<std::uint16_t>&, void*, Stream);

}  // namespace pvtune::cuda
