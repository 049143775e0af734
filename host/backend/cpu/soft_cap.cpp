#include "host/backend/cpu/soft_cap.h"

#include "host/backend/cpu/cpu_ops.h"

namespace pvtune::cpu {

void soft_cap_forward(Tensor values, float cap) {
    const std::int64_t count = values.elements();
    float* x = values.as<float>();
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < count; ++i) x[i] = soft_capped(x[i], cap);
}

void soft_cap_backward(Tensor d_values, Tensor values, float cap) {
    const std::int64_t count = values.elements();
    const float* x = values.as<float>();
    with_element(d_values.dtype, [&]<class T>(T) {
        T* d = d_values.as<T>();
#pragma omp parallel for simd schedule(static)
        for (std::int64_t i = 0; i < count; ++i) d[i] = from_float<T>(to_float(d[i]) * soft_cap_slope(x[i], cap));
    });
}

}  // namespace pvtune::cpu
