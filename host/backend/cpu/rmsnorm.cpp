#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/scratch.h"
#include "host/backend/cpu/simd.h"

#include <algorithm>
#include <cmath>

namespace pvtune::cpu {

void rmsnorm_forward(Tensor out, Tensor inverse_rms, Tensor in, Tensor weight, float epsilon) {
    const std::int64_t tokens = in.dim(0);
    const std::int64_t width = in.dim(1);
    const float* gain = weight.as<float>();
    with_element(in.dtype, [&]<class T>(T) {
#pragma omp parallel for schedule(static)
        for (std::int64_t t = 0; t < tokens; ++t) {
            const T* x = in.as<T>() + t * width;
            T* y = out.as<T>() + t * width;
            float squares = 0;
#pragma omp simd reduction(+ : squares)
            for (std::int64_t i = 0; i < width; ++i) squares += to_float(x[i]) * to_float(x[i]);
            const float inverse = 1.0F / std::sqrt(squares / static_cast<float>(width) + epsilon);
            inverse_rms.as<float>()[t] = inverse;
#pragma omp simd
            for (std::int64_t i = 0; i < width; ++i) y[i] = from_float<T>(to_float(x[i]) * inverse * gain[i]);
        }
    });
}

// With r = inverse_rms, n = x r, g = d_out * weight:  d_in = r (g - n mean(g n)),  d_weight = sum over tokens of d_out
// n.
void rmsnorm_backward(Tensor d_in, Tensor d_weight, Tensor d_out, Tensor in, Tensor weight, Tensor inverse_rms) {
    static Scratch memory;
    const std::int64_t tokens = in.dim(0);
    const std::int64_t width = in.dim(1);
    const float* gain = weight.as<float>();
    float* partial = memory.get<float>(sum_parts * width);
    with_element(in.dtype, [&]<class T>(T) {
#pragma omp parallel for schedule(static)
        for (std::int64_t part = 0; part < sum_parts; ++part) {
            float* sums = partial + part * width;
            std::fill_n(sums, width, 0.0F);
            for (std::int64_t t = tokens * part / sum_parts; t < tokens * (part + 1) / sum_parts; ++t) {
                const T* x = in.as<T>() + t * width;
                const T* dy = d_out.as<T>() + t * width;
                T* dx = d_in.as<T>() + t * width;
                const float inverse = inverse_rms.as<float>()[t];
                float projection = 0;
#pragma omp simd reduction(+ : projection)
                for (std::int64_t i = 0; i < width; ++i) {
                    const float product = to_float(dy[i]) * to_float(x[i]) * inverse;
                    projection += product * gain[i];
                    sums[i] += product;
                }
                const float mean = projection / static_cast<float>(width);
#pragma omp simd
                for (std::int64_t i = 0; i < width; ++i) {
                    const float step = inverse * (to_float(dy[i]) * gain[i] - to_float(x[i]) * inverse * mean);
                    dx[i] = from_float<T>(to_float(dx[i]) + step);
                }
            }
        }
    });
    if (d_weight.empty()) return;
    for (std::int64_t part = 0; part < sum_parts; ++part) {
        for (std::int64_t i = 0; i < width; ++i) d_weight.as<float>()[i] += partial[part * width + i];
    }
}

}  // namespace pvtune::cpu
