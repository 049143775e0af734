#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/simd.h"

namespace pvtune::cpu {

void swiglu_forward(Tensor out, Tensor gate, Tensor up) {
    const std::int64_t count = out.elements();
    with_element(out.dtype, [&]<class T>(T) {
        T* y = out.as<T>();
        const T* g = gate.as<T>();
        const T* u = up.as<T>();
#pragma omp parallel for simd schedule(static)
        for (std::int64_t i = 0; i < count; ++i) {
            const float x = to_float(g[i]);
            const float sigmoid = 1.0F / (1.0F + exponential(-x));
            y[i] = from_float<T>(x * sigmoid * to_float(u[i]));
        }
    });
}

// silu(x) = x s, s = sigmoid(x); silu'(x) = s (1 + x (1 - s)).
void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) {
    const std::int64_t count = d_out.elements();
    with_element(d_out.dtype, [&]<class T>(T) {
        T* dg = d_gate.as<T>();
        T* du = d_up.as<T>();
        T* y = out.as<T>();
        const T* dy = d_out.as<T>();
        const T* g = gate.as<T>();
        const T* u = up.as<T>();
#pragma omp parallel for simd schedule(static)
        for (std::int64_t i = 0; i < count; ++i) {
            const float x = to_float(g[i]);
            const float gradient = to_float(dy[i]);
            const float value = to_float(u[i]);
            const float sigmoid = 1.0F / (1.0F + exponential(-x));
            y[i] = from_float<T>(x * sigmoid * value);
            du[i] = from_float<T>(gradient * x * sigmoid);
            dg[i] = from_float<T>(gradient * value * sigmoid * (1.0F + x * (1.0F - sigmoid)));
        }
    });
}

}  // namespace pvtune::cpu
