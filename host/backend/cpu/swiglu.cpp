#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/simd.h"

namespace pvtune::cpu {

namespace {

// Both gates are x s, s = sigmoid(z(x)), with the derivative s (1 + x z'(x) (1 - s)).

struct Silu {
    static float z(float x) { return x; }
    static float slope(float) { return 1.0F; }
};

/// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (Hendrycks, Gimpel 2016), and (1 + tanh(y)) / 2 = sigmoid(2 y).
struct GeluTanh {
    static constexpr float twice_root = 1.5957691216F;  // 2 sqrt(2 / pi)
    static constexpr float cubic = 0.044715F;
    static float z(float x) { return twice_root * (x + cubic * x * x * x); }
    static float slope(float x) { return twice_root * (1.0F + 3.0F * cubic * x * x); }
};

template <class Gate>
void gated_forward(Tensor out, Tensor gate, Tensor up) {
    const std::int64_t count = out.elements();
    with_element(out.dtype, [&]<class T>(T) {
        T* y = out.as<T>();
        const T* g = gate.as<T>();
        const T* u = up.as<T>();
#pragma omp parallel for simd schedule(static)
        for (std::int64_t i = 0; i < count; ++i) {
            const float x = to_float(g[i]);
            const float sigmoid = 1.0F / (1.0F + exponential(-Gate::z(x)));
            y[i] = from_float<T>(x * sigmoid * to_float(u[i]));
        }
    });
}

template <class Gate>
void gated_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) {
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
            const float sigmoid = 1.0F / (1.0F + exponential(-Gate::z(x)));
            y[i] = from_float<T>(x * sigmoid * value);
            du[i] = from_float<T>(gradient * x * sigmoid);
            dg[i] = from_float<T>(gradient * value * sigmoid * (1.0F + x * Gate::slope(x) * (1.0F - sigmoid)));
        }
    });
}

}  // namespace

void swiglu_forward(Tensor out, Tensor gate, Tensor up) { gated_forward<Silu>(out, gate, up); }

void swiglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) {
    gated_backward<Silu>(d_gate, d_up, out, d_out, gate, up);
}

void geglu_forward(Tensor out, Tensor gate, Tensor up) { gated_forward<GeluTanh>(out, gate, up); }

void geglu_backward(Tensor d_gate, Tensor d_up, Tensor out, Tensor d_out, Tensor gate, Tensor up) {
    gated_backward<GeluTanh>(d_gate, d_up, out, d_out, gate, up);
}

}  // namespace pvtune::cpu
