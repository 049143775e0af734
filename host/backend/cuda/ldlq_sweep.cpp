#include "cuda/runtime.h"
#include "host/backend/cuda/code_sweeps.h"

#include <algorithm>

namespace pvtune::cuda {

std::size_t ldlq_workspace(std::int64_t rows, std::int64_t columns) { return gptq_workspace(rows, columns); }

void ldlq(std::uint8_t* codes, const float* target, const float* shares, std::int64_t rows, std::int64_t columns,
          std::int64_t bytes, Gemm& gemm, void* workspace, Stream stream) {
    const FeedbackSweep sweep(rows, columns, shares, gemm, workspace, stream);
    for (std::int64_t first = 0; first < columns; first += sweep_columns) {
        const std::int64_t count = std::min(sweep_columns, columns - first);
        ldlq_block(codes, sweep.errors, sweep.feedback, target, shares, rows, columns, bytes, first, count, stream);
        sweep.feed_forward(first, count);
    }
}

}  // namespace pvtune::cuda
