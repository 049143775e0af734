#pragma once

#include "cuda/gemm.h"
#include "cuda/kernels.h"

/// Codes under a Hessian (docs/calibration.md): the ops of the same names. A sweep goes through the columns in blocks;
/// a kernel walks those of a block, all rows at once, and one product takes what the block leaves to the columns behind
/// it. Pointers and workspaces as in cuda/kernels.h.
namespace pvtune::cuda {

/// What gptq and ldlq feed to the columns behind a block.
struct FeedbackSweep {
    float* feedback;  ///< [rows, columns], 0 at first
    float* errors;    ///< [rows, columns of the block]
    std::int64_t rows, columns;
    const float* shares;
    Gemm& gemm;
    Stream stream;

    FeedbackSweep(std::int64_t rows, std::int64_t columns, const float* shares, Gemm& gemm, void* workspace,
                  Stream stream);
    /// feedback[:, next:] += errors * shares[next:, first:next]^T, next = first + count.
    void feed_forward(std::int64_t first, std::int64_t count) const;
};

// gptq_sweep.cpp
void gptq(const ScalarView& scalar, const float* weight, const float* shares, const std::uint32_t* order, Gemm& gemm,
          void* workspace, Stream stream);
std::size_t gptq_workspace(std::int64_t rows, std::int64_t columns);

// ldlq_sweep.cpp
void ldlq(std::uint8_t* codes, const float* target, const float* shares, std::int64_t rows, std::int64_t columns,
          std::int64_t bytes, Gemm& gemm, void* workspace, Stream stream);
std::size_t ldlq_workspace(std::int64_t rows, std::int64_t columns);

// additive_sweep.cpp
void additive_sweep(const SweptCodes& additive, float* quantized, float* gradient, const float* hessian,
                    const double* factors, int beam, std::int64_t block, Gemm& gemm, void* workspace, Stream stream);
std::size_t additive_sweep_workspace(const SweptCodes& additive, int beam, std::int64_t block);

}  // namespace pvtune::cuda
