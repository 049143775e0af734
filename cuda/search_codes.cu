// The codes of points [count, group] under codebooks [books, size, group], for the start of additive codes: nothing is
// scaled and every group is searched. One codebook: kmeans_assign. Several: the beam search of assign_additive, whose
// kernel takes the points for one row of groups with the scale 1.

#include "cuda/assign_additive.cuh"
#include "cuda/kernels.h"
#include "cuda/launch_grid.h"

#include <stdexcept>
#include <string>

namespace pvtune::cuda {

namespace {

constexpr int block_threads = 256;

/// The row that the search goes through: its groups one after the other.
struct Row {
    AdditiveView<std::uint16_t> view;
    BeamSearch search;

    Row(std::uint16_t* codes, const float* codebooks, const CodeSearch& wanted) {
        view.codes = codes;
        view.codebooks = codebooks;
        view.rows = 1;
        view.groups = wanted.count;
        view.books = wanted.books;
        view.codebook_size = wanted.codebook_size;
        view.group = wanted.group;
        search = beam_search_for(view, wanted.count, wanted.beam);
        search.sweeps = wanted.sweeps;
    }
};

/// What lies in the workspace: [tables of the search | chosen | scale | changed].
struct Parts {
    std::size_t chosen, scale, changed, bytes;

    explicit Parts(const Row& row) {
        constexpr std::size_t line = 256;
        const auto count = static_cast<std::size_t>(row.view.groups);
        chosen = ceil_divide(beam_assign_workspace(row.view, row.search), line) * line;
        scale = chosen + count * sizeof(std::uint32_t);
        changed = scale + sizeof(float);
        bytes = changed + count;
    }
};

__global__ void __launch_bounds__(block_threads)
    every_group_kernel(std::uint32_t* chosen, float* scale, std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
    if (i < count) chosen[i] = static_cast<std::uint32_t>(i);
    if (i == 0) *scale = 1;
}

}  // namespace

std::size_t search_codes_workspace(const CodeSearch& wanted) {
    return wanted.books == 1 ? 0 : Parts(Row(nullptr, nullptr, wanted)).bytes;
}

void search_codes(std::uint16_t* codes, const float* points, const float* codebooks, const CodeSearch& wanted,
                  void* workspace, Stream stream) {
    if (wanted.books == 1) {
        return kmeans_assign(codes, points, codebooks, wanted.count, wanted.codebook_size, wanted.group, stream);
    }
    Row row(codes, codebooks, wanted);
    check_additive(row.view);
    if (wanted.beam < 1 || wanted.beam > 8) {
        throw std::invalid_argument("a beam of 1 to 8, not " + std::to_string(wanted.beam));
    }
    if (wanted.count == 0) return;
    const Parts parts(row);
    auto* const bytes = static_cast<std::uint8_t*>(workspace);
    auto* const chosen = reinterpret_cast<std::uint32_t*>(bytes + parts.chosen);
    auto* const scale = reinterpret_cast<float*>(bytes + parts.scale);
    row.view.scales = scale;
    launch(every_group_kernel, static_cast<unsigned>(ceil_divide(wanted.count, std::int64_t{block_threads})),
           block_threads, 0, stream, chosen, scale, wanted.count);
    beam_assign(row.view, bytes + parts.changed, points, chosen, wanted.count, row.search, workspace, stream);
}

}  // namespace pvtune::cuda
