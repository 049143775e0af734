#include "host/backend/cpu/gemm.h"

#include "host/backend/cpu/bf16_blocks.h"

namespace pvtune::cpu {

namespace {
/// Below this many rows reading the weights once, without packing them, is what counts.
constexpr std::int64_t few_rows = 4;
}  // namespace

void gemm(const Gemm& problem) {
    if (problem.m == 0 || problem.n == 0) return;
    if (problem.m <= few_rows && !problem.left_transposed && problem.right_transposed) {
        gemm_few_rows(problem);
    } else if (problem.dtype == DType::bf16 && block_unit() != BlockUnit::none) {
        gemm_blocks(problem);
    } else {
        gemm_onednn(problem);
    }
}

namespace {

template <class T>
float dot(const T* a, const T* b, std::int64_t count) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < count; ++i) sum += to_float(a[i]) * to_float(b[i]);
    return sum;
}

template <class T, class R>
void few_rows_of(const Gemm& problem) {
    const auto* left = static_cast<const T*>(problem.left);
    const auto* right = static_cast<const T*>(problem.right);
    auto* result = static_cast<R*>(problem.result);
#pragma omp parallel for schedule(static)
    for (std::int64_t j = 0; j < problem.n; ++j) {
        for (std::int64_t i = 0; i < problem.m; ++i) {
            float sum = dot(left + i * problem.left_stride, right + j * problem.right_stride, problem.k);
            R& to = result[i * problem.result_stride + j];
            if (problem.bias != nullptr) sum += problem.bias[j];
            if (problem.accumulate) sum += to_float(to);
            to = from_float<R>(sum);
        }
    }
}

}  // namespace

void gemm_few_rows(const Gemm& problem) {
    if (problem.dtype == DType::f32) {
        few_rows_of<float, float>(problem);
    } else if (problem.result_dtype == DType::f32) {
        few_rows_of<bf16, float>(problem);
    } else {
        few_rows_of<bf16, bf16>(problem);
    }
}

}  // namespace pvtune::cpu
