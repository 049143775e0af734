// New codes for chosen groups, the nearest to target / scale (|target - scale * sum|^2 is scale^2 times that distance).
// One codebook: the exact nearest codeword, in two kernels. The first searches a range of the codebook for 512 groups a
// block, with as many ranges as fill the device; the second takes the best of the ranges and compares it with the code
// that the group has. Several codebooks: assign_additive_beam.cu.

#include "cuda/assign_additive.cuh"

#include <algorithm>

namespace pvtune::cuda {

namespace {

template <int group>
inline constexpr int points_a_thread = group == 16 ? 2 : 4;  // what registers hold

/// found [ranges, count]: score and code of the best of each range, in one number that is least for the nearest, ties
/// for the lower code.
template <int group, class Code>
__global__ void __launch_bounds__(nearest_threads)
    nearest_kernel(unsigned long long* found, const float* target, const std::uint32_t* chosen, std::int64_t count,
                   AdditiveView<Code> additive, Divisor row_groups, int range) {
    constexpr int points = points_a_thread<group>;
    __shared__ CodewordTile<group> tile;
    const std::int64_t first = std::int64_t{blockIdx.x} * nearest_threads * points + threadIdx.x;
    float doubled[points][group];
#pragma unroll
    for (int p = 0; p < points; ++p) {
        const std::int64_t i = min(first + p * nearest_threads, count - 1);
        load_target<group>(doubled[p], target, chosen[i], additive, row_groups);
#pragma unroll
        for (int j = 0; j < group; ++j) doubled[p][j] *= -2;
    }
    const int begin = static_cast<int>(blockIdx.y) * range;
    const int end = min(begin + range, static_cast<int>(additive.codebook_size));
    const auto nearest = nearest_codewords<group, points>(doubled, additive.codebooks, begin, end, tile);
#pragma unroll
    for (int p = 0; p < points; ++p) {
        const std::int64_t i = first + p * nearest_threads;
        if (i >= count) break;
        const bool none = nearest.at[p] == nearest.no_codeword;
        found[blockIdx.y * count + i] =
            none ? ~0ULL : static_cast<unsigned long long>(ordered_bits(nearest.score[p])) << 32 | nearest.at[p];
    }
}

template <int group, class Code>
__global__ void __launch_bounds__(nearest_threads, 5)
    adopt_nearest_kernel(std::uint8_t* changed, const unsigned long long* found, int ranges, const float* target,
                         const std::uint32_t* chosen, std::int64_t count, AdditiveView<Code> additive,
                         Divisor row_groups) {
    const std::int64_t i = std::int64_t{blockIdx.x} * nearest_threads + threadIdx.x;
    if (i >= count) return;
    unsigned long long best = ~0ULL;
    for (int range = 0; range < ranges; ++range) best = min(best, found[range * count + i]);
    bool differs = false;
    if (best != ~0ULL) {
        float values[group];
        load_target<group>(values, target, chosen[i], additive, row_groups);
        const std::uint32_t code = static_cast<std::uint32_t>(best);
        differs = adopt_codes<group>(values, chosen[i], additive, &code);
    }
    changed[i] = differs ? 1 : 0;
}

struct Ranges {
    int count, size;

    Ranges(std::int64_t groups, std::int64_t group, std::int64_t codebook_size) {
        constexpr std::int64_t enough = 264;  // blocks, two for each of 132 multiprocessors
        constexpr std::int64_t tile = CodewordTile<4>::size;
        const std::int64_t points = group == 16 ? points_a_thread<16> : points_a_thread<8>;
        const std::int64_t blocks = std::max<std::int64_t>(1, ceil_divide(groups, nearest_threads * points));
        const std::int64_t wanted = std::clamp<std::int64_t>(enough / blocks, 1, ceil_divide(codebook_size, tile));
        size = static_cast<int>(ceil_divide(ceil_divide(codebook_size, wanted), tile) * tile);
        count = static_cast<int>(ceil_divide(codebook_size, size));
    }
};

}  // namespace

template <class Code>
std::size_t assign_additive_workspace(const AdditiveView<Code>& additive, std::int64_t count, int beam) {
    if (additive.books > 1) return beam_assign_workspace(additive, beam_search_for(additive, count, beam));
    const Ranges ranges(count, additive.group, additive.codebook_size);
    return static_cast<std::size_t>(ranges.count * count) * sizeof(unsigned long long);
}

template <class Code>
void assign_additive(const AdditiveView<Code>& additive, std::uint8_t* changed, const float* target,
                     const std::uint32_t* chosen, std::int64_t count, int beam, void* workspace, Stream stream) {
    check_additive(additive);
    if (beam < 1 || beam > 8) throw std::invalid_argument("a beam of 1 to 8, not " + std::to_string(beam));
    if (count == 0) return;
    if (additive.books > 1) {
        return beam_assign(additive, changed, target, chosen, count, beam_search_for(additive, count, beam), workspace,
                           stream);
    }
    const Ranges ranges(count, additive.group, additive.codebook_size);
    const Divisor row_groups(additive.groups);
    auto* const found = static_cast<unsigned long long*>(workspace);
    with_group(additive.group, [&]<int group>() {
        const dim3 grid(static_cast<unsigned>(ceil_divide(count, nearest_threads * points_a_thread<group>)),
                        static_cast<unsigned>(ranges.count));
        launch(nearest_kernel<group, Code>, grid, nearest_threads, 0, stream, found, target, chosen, count, additive,
               row_groups, ranges.size);
        launch(adopt_nearest_kernel<group, Code>, static_cast<unsigned>(ceil_divide(count, nearest_threads)),
               nearest_threads, 0, stream, changed, found, ranges.count, target, chosen, count, additive, row_groups);
    });
}

template std::size_t assign_additive_workspace(const AdditiveView<std::uint8_t>&, std::int64_t, int);
template std::size_t assign_additive_workspace(const AdditiveView<std::uint16_t>&, std::int64_t, int);
template void assign_additive(const AdditiveView<std::uint8_t>&, std::uint8_t*, const float*, const std::uint32_t*,
                              std::int64_t, int, void*, Stream);
template void assign_additive(const AdditiveView<std::uint16_t>&, std::uint8_t*, const float*, const std::uint32_t*,
                              std::int64_t, int, void*, Stream);

}  // namespace pvtune::cuda
