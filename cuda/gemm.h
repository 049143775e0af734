#pragma once

#include "cuda/kernels.h"

#include <memory>

namespace pvtune::cuda {

/// result [m, n] = left [m, k] * right [k, n] (+ result), row-major on the device. A transposed left is stored [k, m],
/// a transposed right [n, k]. left and right have one dtype, f32 or bf16; the result is of that dtype or f32. Sums run
/// in f32, never in TF32. Strides: elements from a stored row to the next; 0: the rows lie side by side.
struct Product {
    std::int64_t m = 0, n = 0, k = 0;
    DType dtype = DType::f32;
    const void* left = nullptr;
    bool left_transposed = false;
    const void* right = nullptr;
    bool right_transposed = false;
    DType result_dtype = DType::f32;
    void* result = nullptr;
    bool accumulate = false;
    std::int64_t left_stride = 0, right_stride = 0, result_stride = 0;
};

/// Matrix products by cuBLASLt. The algorithm of a shape is chosen once, among those that sum in a fixed order, so that
/// results repeat bit for bit on one kind of device. Throws CudaError.
class Gemm {
public:
    Gemm();
    ~Gemm();
    Gemm(const Gemm&) = delete;
    Gemm& operator=(const Gemm&) = delete;

    void run(const Product& product, Stream stream);

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace pvtune::cuda
