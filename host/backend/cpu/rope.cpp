#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/simd.h"

namespace pvtune::cpu {

namespace {

/// direction +1 rotates by the angle of the position, -1 back.
void rotate(Tensor heads, Tensor cosines, Tensor sines, float direction) {
    const std::int64_t tokens = heads.dim(0);
    const std::int64_t count = heads.dim(1);
    const std::int64_t head_dim = heads.dim(2);
    const std::int64_t half = cosines.dim(1);  // what is behind 2 * half stays
    const std::int64_t length = cosines.dim(0);
    with_element(heads.dtype, [&]<class T>(T) {
#pragma omp parallel for schedule(static)
        for (std::int64_t t = 0; t < tokens; ++t) {
            const float* cosine = cosines.as<float>() + (t % length) * half;
            const float* sine = sines.as<float>() + (t % length) * half;
            for (std::int64_t h = 0; h < count; ++h) {
                T* low = heads.as<T>() + (t * count + h) * head_dim;
                T* high = low + half;
#pragma omp simd
                for (std::int64_t i = 0; i < half; ++i) {
                    const float a = to_float(low[i]);
                    const float b = to_float(high[i]);
                    low[i] = from_float<T>(a * cosine[i] - direction * b * sine[i]);
                    high[i] = from_float<T>(b * cosine[i] + direction * a * sine[i]);
                }
            }
        }
    });
}

}  // namespace

void rope_forward(Tensor heads, Tensor cosines, Tensor sines) { rotate(heads, cosines, sines, 1.0F); }

void rope_backward(Tensor d_heads, Tensor cosines, Tensor sines) { rotate(d_heads, cosines, sines, -1.0F); }

}  // namespace pvtune::cpu
