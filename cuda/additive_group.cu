// One group of columns of an AQLM sweep under a Hessian (Ops::additive_sweep, docs/calibration.md), all rows at once:
// codebooks times L, then the targets (L^-1 G_g + L^T What_g), then the search of assign_additive in these codebooks,
// then What and what changed. G's columns here are those before the block plus what the block's groups have changed
// since: a short product of the changes with a few columns of H. Kernels are short: per group the search is most of it.

#include "cuda/assign_additive.cuh"

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

unsigned blocks_for(std::int64_t count) { return static_cast<unsigned>(ceil_divide(count, block_threads)); }

/// out[k] = codebooks[k] L, a thread a number; sums in f64 like those of host/backend/cpu/additive_sweep.cpp.
template <int group>
__global__ void __launch_bounds__(block_threads)
    transform_codebooks_kernel(float* out, const float* codebooks, const double* lower, std::int64_t count) {
    const std::int64_t at = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (at >= count) return;
    const int j = static_cast<int>(at % group);
    const float* const codeword = codebooks + at - j;
    double sum = 0;
#pragma unroll
    for (int i = 0; i < group; ++i) {
        if (i >= j) sum = fma(static_cast<double>(codeword[i]), lower[i * group + j], sum);
    }
    out[at] = static_cast<float>(sum);
}

struct TargetOperands {
    float* targets;
    std::uint32_t* chosen;
    const float* quantized;
    const float* gradient;
    const float* change;
    const float* hessian;
    const double* lower;
    std::int64_t rows, columns, first, column, width;
};

/// `group` lanes a row; targets [rows, columns] at the group's columns, chosen = its flat indices.
template <int group>
__global__ void __launch_bounds__(block_threads) group_targets_kernel(TargetOperands at) {
    __shared__ float lower[group][group];
    __shared__ float inverse[group][group];
    if (threadIdx.x < group * group) {
        const int i = static_cast<int>(threadIdx.x);
        lower[i / group][i % group] = static_cast<float>(at.lower[i]);
        inverse[i / group][i % group] = static_cast<float>(at.lower[group * group + i]);
    }
    __syncthreads();
    const std::int64_t index = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    const int lane = static_cast<int>(threadIdx.x) % group;
    const bool inside = index / group < at.rows;
    const std::int64_t row = inside ? index / group : at.rows - 1;  // for the shuffles
    const std::int64_t here = row * at.columns + at.column + lane;
    const float now = at.quantized[here];
    float gradient = at.gradient[here];
    const float* const change = at.change + row * at.width;
    const float* const hessian = at.hessian + at.first * at.columns + at.column + lane;
    const auto before = static_cast<int>(at.column - at.first);
#pragma unroll 4
    for (int i = 0; i < before; ++i) gradient = fmaf(change[i], hessian[i * at.columns], gradient);
    float point = 0;
#pragma unroll
    for (int j = 0; j < group; ++j) {
        point = fmaf(inverse[lane][j], __shfl_sync(whole_warp, gradient, j, group), point);
        point = fmaf(lower[j][lane], __shfl_sync(whole_warp, now, j, group), point);
    }
    if (!inside) return;
    at.targets[here] = point;
    if (lane == 0) at.chosen[row] = static_cast<std::uint32_t>((row * at.columns + at.column) / group);
}

/// change [rows, width] at the group's columns = What before - after; quantized follows.
template <int group>
__global__ void __launch_bounds__(block_threads)
    take_codes_kernel(SweptCodes additive, float* quantized, float* change, const std::uint8_t* changed,
                      std::int64_t columns, std::int64_t first, std::int64_t column, std::int64_t width) {
    const std::int64_t index = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    const std::int64_t row = index / group;
    if (row >= additive.rows) return;
    const int lane = static_cast<int>(threadIdx.x) % group;
    float& moved = change[row * width + column - first + lane];
    if (changed[row] == 0) {
        moved = 0;
        return;
    }
    const std::uint16_t* const codes = additive.codes + (row * columns + column) / group * additive.books;
    float sum = 0;
    for (std::int64_t m = 0; m < additive.books; ++m) {
        sum += additive.codebooks[(m * additive.codebook_size + codes[m]) * group + lane];
    }
    float& now = quantized[row * columns + column + lane];
    const float value = additive.scales[row] * sum;
    moved = now - value;
    now = value;
}

std::size_t padded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

/// The buffers in a workspace, one after the other.
struct Buffers {
    float* targets;
    float* codebooks;
    std::uint32_t* chosen;
    std::uint8_t* changed;
    std::byte* search;

    Buffers(const SweptCodes& additive, void* workspace) {
        std::byte* at = static_cast<std::byte*>(workspace);
        const auto take = [&](std::int64_t elements, std::size_t size) {
            std::byte* const here = at;
            at += padded(static_cast<std::size_t>(elements) * size);
            return here;
        };
        targets = reinterpret_cast<float*>(take(additive.rows * additive.groups * additive.group, sizeof(float)));
        codebooks =
            reinterpret_cast<float*>(take(additive.books * additive.codebook_size * additive.group, sizeof(float)));
        chosen = reinterpret_cast<std::uint32_t*>(take(additive.rows, sizeof(std::uint32_t)));
        changed = reinterpret_cast<std::uint8_t*>(take(additive.rows, 1));
        search = at;
    }
};

/// As on the CPU: the codes that a sweep starts from are good, so that every codebook is gone through once.
BeamSearch search_for(const SweptCodes& additive, int beam) {
    BeamSearch search = beam_search_for(additive, additive.rows, beam);
    search.sweeps = 1;
    return search;
}

}  // namespace

std::size_t additive_group_workspace(const SweptCodes& additive, int beam) {
    const Buffers none(additive, nullptr);
    return static_cast<std::size_t>(none.search - static_cast<std::byte*>(nullptr)) +
           (additive.books > 1 ? beam_assign_workspace(additive, search_for(additive, beam))
                               : assign_additive_workspace(additive, additive.rows, beam));
}

void additive_group(const SweptCodes& additive, float* quantized, float* change, const float* gradient,
                    const float* hessian, const double* factors, std::int64_t first, std::int64_t width,
                    std::int64_t column, int beam, void* workspace, Stream stream) {
    check_additive(additive);
    if (beam < 1 || beam > 8) throw std::invalid_argument("a beam of 1 to 8, not " + std::to_string(beam));
    const std::int64_t columns = additive.groups * additive.group;
    if (column % additive.group != 0 || column < first || column + additive.group > first + width ||
        first + width > columns) {
        throw std::invalid_argument("additive_group: no group at column " + std::to_string(column) + " of " +
                                    std::to_string(first) + " to " + std::to_string(first + width));
    }
    if (additive.rows == 0) return;
    const Buffers to(additive, workspace);
    SweptCodes transformed = additive;
    transformed.codebooks = to.codebooks;
    const double* const lower = factors + column / additive.group * 2 * additive.group * additive.group;
    with_group(additive.group, [&]<int group>() {
        const std::int64_t numbers = additive.books * additive.codebook_size * group;
        launch(transform_codebooks_kernel<group>, blocks_for(numbers), block_threads, 0, stream, to.codebooks,
               additive.codebooks, lower, numbers);
        launch(group_targets_kernel<group>, blocks_for(additive.rows * group), block_threads, 0, stream,
               TargetOperands{to.targets, to.chosen, quantized, gradient, change, hessian, lower, additive.rows,
                              columns, first, column, width});
        if (additive.books > 1) {
            beam_assign(transformed, to.changed, to.targets, to.chosen, additive.rows, search_for(additive, beam),
                        to.search, stream);
        } else {
            assign_additive(transformed, to.changed, to.targets, to.chosen, additive.rows, beam, to.search, stream);
        }
        launch(take_codes_kernel<group>, blocks_for(additive.rows * group), block_threads, 0, stream, additive,
               quantized, change, to.changed, columns, first, column, width);
    });
}

}  // namespace pvtune::cuda
