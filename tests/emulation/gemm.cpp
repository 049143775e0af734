// cuda/gemm.h without cuBLASLt: device memory is host memory here, and the CPU's product does the work.
#include "cuda/gemm.h"

#include "host/backend/cpu/gemm.h"
#include "tests/emulation/device_memory.h"

namespace pvtune::cuda {

struct Gemm::State {};

Gemm::Gemm() = default;
Gemm::~Gemm() = default;

void Gemm::run(const Product& product, Stream) {
    const emulation::DeviceAccess access;
    cpu::Gemm problem;
    problem.m = product.m;
    problem.n = product.n;
    problem.k = product.k;
    problem.dtype = product.dtype;
    problem.left = product.left;
    const auto stride = [](std::int64_t given, std::int64_t row) { return given > 0 ? given : row; };
    problem.left_stride = stride(product.left_stride, product.left_transposed ? product.m : product.k);
    problem.left_transposed = product.left_transposed;
    problem.right = product.right;
    problem.right_stride = stride(product.right_stride, product.right_transposed ? product.k : product.n);
    problem.right_transposed = product.right_transposed;
    problem.result_dtype = product.result_dtype;
    problem.result = product.result;
    problem.result_stride = stride(product.result_stride, product.n);
    problem.accumulate = product.accumulate;
    cpu::gemm(problem);
}

}  // namespace pvtune::cuda
