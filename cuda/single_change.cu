// The best change of a single code of a group over all codebooks and codewords: the nearest other encoding
// (assign_different), and the change that gains most for its length (eager_score). A thread a group; codewords go
// through shared memory a tile at a time, every thread reads the same one at once. Sums in the order of
// host/backend/cpu/single_change.cpp.

#include "cuda/assign_additive.cuh"
#include "cuda/vector.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 128;
constexpr int tile_size = 128;
constexpr int blocks = 5;  // on a multiprocessor, at the least: what a group of 16 and its search keep in registers
constexpr std::uint32_t no_change = 0xffffffffU;

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000U); }

struct Best {
    float value;
    std::uint32_t change;  // codebook * codebook_size + code
};

/// begin(m): the thread prepares for codebook m; value_of(codeword): larger is better. own[m] is left out, ties go to
/// the lower. All threads of the block call it; `here`: this one has a group.
template <int group, class Code, class Begin, class ValueOf>
__device__ inline Best search_codebooks(const AdditiveView<Code>& additive, const Code* own, bool here,
                                        const Begin& begin, const ValueOf& value_of) {
    __shared__ float4 tile[tile_size][group / 4];
    Best best{minus_infinity(), no_change};
    const auto size = static_cast<int>(additive.codebook_size);
    for (int m = 0; m < static_cast<int>(additive.books); ++m) {
        const int present = here ? static_cast<int>(own[m]) : 0;
        begin(m, present);
        for (int first = 0; first < size; first += tile_size) {
            const int count = min(tile_size, size - first);
            __syncthreads();
            for (int i = static_cast<int>(threadIdx.x); i < count * (group / 4); i += block_threads) {
                const float* from = additive.codebooks + (std::int64_t{m} * size + first) * group;
                tile[i / (group / 4)][i % (group / 4)] = reinterpret_cast<const float4*>(from)[i];
            }
            __syncthreads();
            for (int k = 0; k < count; ++k) {
                float codeword[group];
#pragma unroll
                for (int e = 0; e < group; e += 4) {
                    const float4 four = tile[k][e / 4];
                    codeword[e] = four.x;
                    codeword[e + 1] = four.y;
                    codeword[e + 2] = four.z;
                    codeword[e + 3] = four.w;
                }
                const float value = value_of(codeword);
                if (value > best.value && first + k != present) {
                    best = {value, static_cast<std::uint32_t>(m) * static_cast<std::uint32_t>(size) +
                                       static_cast<std::uint32_t>(first + k)};
                }
            }
        }
    }
    return best;
}

template <int group, class Code>
__global__ void __launch_bounds__(block_threads, blocks)
    assign_different_kernel(AdditiveView<Code> additive, std::uint8_t* changed, const float* target,
                            const std::uint32_t* chosen, std::int64_t count, Divisor row_groups) {
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    const bool here = i < count && changed[i] == 0;
    const std::int64_t at = here ? chosen[i] : 0;
    Code* const own = additive.codes + at * additive.books;
    float rest[group];
    load_target<group>(rest, target, at, additive, row_groups);
    for (int m = 0; m < static_cast<int>(additive.books); ++m) subtract_codeword<group>(rest, additive, m, own[m]);
    float x[group];
    const auto begin = [&](int m, int present) {
        float codeword[group];
        load_point<group>(codeword, additive.codebooks + (m * additive.codebook_size + present) * group);
#pragma unroll
        for (int e = 0; e < group; ++e) x[e] = rest[e] + codeword[e];
    };
    const auto value_of = [&](const float(&codeword)[group]) {
        float value = 0;
#pragma unroll
        for (int e = 0; e < group; ++e) {
            const float left = x[e] - codeword[e];
            value = fmaf(-left, left, value);
        }
        return value;
    };
    const Best best = search_codebooks<group>(additive, own, here, begin, value_of);
    if (!here || best.change == no_change) return;
    const auto size = static_cast<std::uint32_t>(additive.codebook_size);
    own[best.change / size] = static_cast<Code>(best.change % size);
    changed[i] = 1;
}

template <int group, class Code, class Moment>
__global__ void __launch_bounds__(block_threads)
    eager_score_kernel(float* scores, std::uint32_t* changes, AdditiveView<Code> additive, const float* gradient,
                       const Moment* second_moment, std::int64_t count, Divisor row_groups, float correction,
                       float epsilon) {
    const std::int64_t at = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    const bool here = at < count;
    const std::int64_t from = here ? at : 0;
    const Code* const own = additive.codes + from * additive.books;
    // Delta = scale * difference: <g, Delta> / |Delta|_D^2 has the scale once.
    const float inverse = 1.0F / additive.scales[row_groups.quotient(static_cast<std::uint32_t>(from))];
    float g[group];
    float curvature[group];
    float now[group];
    load_point<group>(g, gradient + from * group);
#pragma unroll
    for (int e = 0; e < group; ++e) {
        g[e] *= -inverse;
        curvature[e] = sqrtf(to_float(second_moment[from * group + e]) * correction) + epsilon;
    }
    const auto begin = [&](int m, int present) {
        load_point<group>(now, additive.codebooks + (m * additive.codebook_size + present) * group);
    };
    const auto value_of = [&](const float(&codeword)[group]) {
        float value = 0;
        float squares = 0;
#pragma unroll
        for (int e = 0; e < group; ++e) {
            const float difference = codeword[e] - now[e];
            value = fmaf(g[e], difference, value);
            squares = fmaf(curvature[e] * difference, difference, squares);
        }
        return squares > 0 ? value / squares : minus_infinity();
    };
    const Best best = search_codebooks<group>(additive, own, here, begin, value_of);
    if (!here) return;
    const bool usable = fabsf(inverse) < __uint_as_float(0x7f800000U);
    scores[at] = usable ? best.value : minus_infinity();
    changes[at] = usable ? best.change : no_change;
}

template <class Code>
__global__ void __launch_bounds__(block_threads)
    apply_changes_kernel(Code* codes, std::uint8_t* changed, const std::uint32_t* changes, const float* scores,
                         const std::uint32_t* chosen, std::int64_t count, std::int64_t width, std::uint32_t size) {
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i >= count) return;
    const std::int64_t at = chosen[i];
    const bool pays = scores[at] > 0;
    changed[i] = pays ? 1 : 0;
    if (!pays) return;
    codes[at * width + changes[at] / size] = static_cast<Code>(changes[at] % size);
}

unsigned blocks_for(std::int64_t threads) { return static_cast<unsigned>(ceil_divide(threads, block_threads)); }

}  // namespace

template <class Code>
void assign_different(const AdditiveView<Code>& additive, std::uint8_t* changed, const float* target,
                      const std::uint32_t* chosen, std::int64_t count, Stream stream) {
    check_additive(additive);
    if (count == 0) return;
    with_group(additive.group, [&]<int group>() {
        launch(assign_different_kernel<group, Code>, blocks_for(count), block_threads, 0, stream, additive, changed,
               target, chosen, count, Divisor(additive.groups));
    });
}

template <class Code, class Moment>
void eager_score(float* scores, std::uint32_t* changes, const AdditiveView<Code>& additive, const float* gradient,
                 const Moment* second_moment, float correction, float epsilon, Stream stream) {
    check_additive(additive);
    const std::int64_t count = additive.rows * additive.groups;
    if (count == 0) return;
    with_group(additive.group, [&]<int group>() {
        launch(eager_score_kernel<group, Code, Moment>, blocks_for(count), block_threads, 0, stream, scores, changes,
               additive, gradient, second_moment, count, Divisor(additive.groups), correction, epsilon);
    });
}

template <class Code>
void apply_changes(Code* codes, std::uint8_t* changed, const std::uint32_t* changes, const float* scores,
                   const std::uint32_t* chosen, std::int64_t count, std::int64_t width, std::int64_t codebook_size,
                   Stream stream) {
    if (count == 0) return;
    launch(apply_changes_kernel<Code>, blocks_for(count), block_threads, 0, stream, codes, changed, changes, scores,
           chosen, count, width, static_cast<std::uint32_t>(codebook_size));
}

template void assign_different(const AdditiveView<std::uint8_t>&, std::uint8_t*, const float*, const std::uint32_t*,
                               std::int64_t, Stream);
template void assign_different(const AdditiveView<std::uint16_t>&, std::uint8_t*, const float*, const std::uint32_t*,
                               std::int64_t, Stream);
template void eager_score(float*, std::uint32_t*, const AdditiveView<std::uint8_t>&, const float*, const float*, float,
                          float, Stream);
template void eager_score(float*, std::uint32_t*, const AdditiveView<std::uint8_t>&, const float*, const bf16*, float,
                          float, Stream);
template void eager_score(float*, std::uint32_t*, const AdditiveView<std::uint16_t>&, const float*, const float*, float,
                          float, Stream);
template void eager_score(float*, std::uint32_t*, const AdditiveView<std::uint16_t>&, const float*, const bf16*, float,
                          float, Stream);
template void apply_changes(std::uint8_t*, std::uint8_t*, const std::uint32_t*, const float*, const std::uint32_t*,
                            std::int64_t, std::int64_t, std::int64_t, Stream);
template void apply_changes(std::uint16_t*, std::uint8_t*, const std::uint32_t*, const float*, const std::uint32_t*,
                            std::int64_t, std::int64_t, std::int64_t, Stream);

}  // namespace pvtune::cuda
