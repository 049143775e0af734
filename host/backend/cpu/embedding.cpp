#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/simd.h"

#include <algorithm>
#include <cstring>

namespace pvtune::cpu {

void embedding_forward(Tensor hidden, Tensor table, Tensor tokens) {
    const std::int64_t row_bytes = table.dim(1) * size_of(table.dtype);
    const auto* ids = tokens.as<std::uint32_t>();
#pragma omp parallel for schedule(static)
    for (std::int64_t t = 0; t < tokens.dim(0); ++t) {
        std::memcpy(hidden.data + t * row_bytes, table.data + ids[t] * row_bytes, static_cast<std::size_t>(row_bytes));
    }
}

// Threads split the width, not the tokens: a token that occurs twice is added by one thread, in order.
void embedding_backward(Tensor d_table, Tensor d_hidden, Tensor tokens) {
    constexpr std::int64_t slice = 64;
    const std::int64_t width = d_table.dim(1);
    const auto* ids = tokens.as<std::uint32_t>();
    with_element(d_hidden.dtype, [&]<class T>(T) {
        const T* from = d_hidden.as<T>();
        float* to = d_table.as<float>();
#pragma omp parallel for schedule(static)
        for (std::int64_t first = 0; first < width; first += slice) {
            const std::int64_t last = std::min(first + slice, width);
            for (std::int64_t t = 0; t < tokens.dim(0); ++t) {
#pragma omp simd
                for (std::int64_t i = first; i < last; ++i) to[ids[t] * width + i] += to_float(from[t * width + i]);
            }
        }
    });
}

}  // namespace pvtune::cpu
