#include "cuda/runtime.h"
#include "host/backend/cuda/code_sweeps.h"

#include <algorithm>

namespace pvtune::cuda {

FeedbackSweep::FeedbackSweep(std::int64_t row_count, std::int64_t column_count, const float* of, Gemm& product,
                             void* workspace, Stream on)
    : feedback(static_cast<float*>(workspace)),
      errors(feedback + row_count * column_count),
      rows(row_count),
      columns(column_count),
      shares(of),
      gemm(product),
      stream(on) {
    check(cudaMemsetAsync(feedback, 0, static_cast<std::size_t>(rows * columns) * sizeof(float), stream),
          "feedback set to zero");
}

void FeedbackSweep::feed_forward(std::int64_t first, std::int64_t count) const {
    const std::int64_t next = first + count;
    if (next == columns) return;
    Product product;
    product.m = rows;
    product.n = columns - next;
    product.k = count;
    product.left = errors;
    product.right = shares + next * columns + first;
    product.right_transposed = true;
    product.right_stride = columns;
    product.result = feedback + next;
    product.result_stride = columns;
    product.accumulate = true;
    gemm.run(product, stream);
}

std::size_t gptq_workspace(std::int64_t rows, std::int64_t columns) {
    return static_cast<std::size_t>(rows * (columns + sweep_columns)) * sizeof(float);
}

void gptq(const ScalarView& scalar, const float* weight, const float* shares, const std::uint32_t* order, Gemm& gemm,
          void* workspace, Stream stream) {
    const FeedbackSweep sweep(scalar.rows, scalar.columns, shares, gemm, workspace, stream);
    for (std::int64_t first = 0; first < scalar.columns; first += sweep_columns) {
        const std::int64_t count = std::min(sweep_columns, scalar.columns - first);
        gptq_block(scalar, sweep.errors, sweep.feedback, weight, shares, order, first, count, stream);
        sweep.feed_forward(first, count);
    }
}

}  // namespace pvtune::cuda
