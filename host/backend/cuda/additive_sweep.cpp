#include "host/backend/cuda/code_sweeps.h"

#include <algorithm>

namespace pvtune::cuda {

namespace {

std::int64_t change_floats(const SweptCodes& additive, std::int64_t block) {
    constexpr std::int64_t line = 64;  // floats in 256 bytes
    const std::int64_t width = std::min(block, additive.groups * additive.group);
    return (additive.rows * width + line - 1) / line * line;
}

}  // namespace

std::size_t additive_sweep_workspace(const SweptCodes& additive, int beam, std::int64_t block) {
    return static_cast<std::size_t>(change_floats(additive, block)) * sizeof(float) +
           additive_group_workspace(additive, beam);
}

void additive_sweep(const SweptCodes& additive, float* quantized, float* gradient, const float* hessian,
                    const double* factors, int beam, std::int64_t block, Gemm& gemm, void* workspace, Stream stream) {
    const std::int64_t columns = additive.groups * additive.group;
    auto* const change = static_cast<float*>(workspace);  // [rows, columns of the block]: What before - What after
    float* const of_groups = change + change_floats(additive, block);
    std::int64_t width = 0;
    for (std::int64_t first = 0; first < columns; first += width) {
        width = std::min(block / additive.group * additive.group, columns - first);
        for (std::int64_t column = first; column < first + width; column += additive.group) {
            additive_group(additive, quantized, change, gradient, hessian, factors, first, width, column, beam,
                           of_groups, stream);
        }
        Product product;
        product.m = additive.rows;
        product.n = columns;
        product.k = width;
        product.left = change;
        product.right = hessian + first * columns;
        product.result = gradient;
        product.accumulate = true;
        gemm.run(product, stream);
    }
}

}  // namespace pvtune::cuda
