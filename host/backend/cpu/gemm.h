#pragma once

#include "io/dtype.h"

#include <cstdint>

namespace pvtune::cpu {

/// result [m, n] = left [m, k] * right [k, n] (+ result, + bias), row-major. A transposed left is stored [k, m]; a
/// transposed right is stored [n, k]. left and right have one dtype; the result is of that dtype or f32.
struct Gemm {
    std::int64_t m = 0;
    std::int64_t n = 0;
    std::int64_t k = 0;
    DType dtype = DType::f32;
    const void* left = nullptr;
    std::int64_t left_stride = 0;
    bool left_transposed = false;
    const void* right = nullptr;
    std::int64_t right_stride = 0;
    bool right_transposed = false;
    DType result_dtype = DType::f32;
    void* result = nullptr;
    std::int64_t result_stride = 0;
    bool accumulate = false;
    const float* bias = nullptr;  ///< [n], added to every row
    bool symmetric = false;       ///< the result is X^T X (plus a symmetric one): a route may compute half of it
};

/// bf16 runs on our product of blocks where the CPU has a unit for it (bf16_blocks.h), else through oneDNN; f32 through
/// oneDNN; few rows (decoding) as dot products. The first and the last give the same bits for any number of threads.
void gemm(const Gemm& problem);

/// The three routes of gemm(), for tests and benchmarks.
void gemm_blocks(const Gemm& problem);
void gemm_onednn(const Gemm& problem);
void gemm_few_rows(const Gemm& problem);

}  // namespace pvtune::cpu
