#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/scratch.h"
#include "host/backend/cpu/simd.h"
#include "host/quant/random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace pvtune::cpu {

void add(Tensor out, Tensor a, Tensor b) {
    const std::int64_t count = out.elements();
    with_element(out.dtype, [&]<class T>(T) {
        T* y = out.as<T>();
        const T* left = a.as<T>();
        const T* right = b.as<T>();
#pragma omp parallel for simd schedule(static)
        for (std::int64_t i = 0; i < count; ++i) y[i] = from_float<T>(to_float(left[i]) + to_float(right[i]));
    });
}

void scale(Tensor hidden, float factor) {
    const std::int64_t count = hidden.elements();
    with_element(hidden.dtype, [&]<class T>(T) {
        T* x = hidden.as<T>();
#pragma omp parallel for simd schedule(static)
        for (std::int64_t i = 0; i < count; ++i) x[i] = from_float<T>(factor * to_float(x[i]));
    });
}

void column_sum(Tensor d_bias, Tensor d_out) {
    static Scratch memory;
    const std::int64_t tokens = d_out.dim(0);
    const std::int64_t width = d_out.dim(1);
    float* partial = memory.get<float>(sum_parts * width);
    with_element(d_out.dtype, [&]<class T>(T) {
#pragma omp parallel for schedule(static)
        for (std::int64_t part = 0; part < sum_parts; ++part) {
            float* sums = partial + part * width;
            std::fill_n(sums, width, 0.0F);
            for (std::int64_t t = tokens * part / sum_parts; t < tokens * (part + 1) / sum_parts; ++t) {
                const T* row = d_out.as<T>() + t * width;
#pragma omp simd
                for (std::int64_t i = 0; i < width; ++i) sums[i] += to_float(row[i]);
            }
        }
    });
    for (std::int64_t part = 0; part < sum_parts; ++part) {
        for (std::int64_t i = 0; i < width; ++i) d_bias.as<float>()[i] += partial[part * width + i];
    }
}

void add_scaled(Tensor out, Tensor in, float scale) {
    const std::int64_t count = out.elements();
    float* y = out.as<float>();
    const float* x = in.as<float>();
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < count; ++i) y[i] = std::fma(scale, x[i], y[i]);
}

void convert(Tensor out, Tensor in) {
    const std::int64_t count = out.elements();
    with_element(out.dtype, [&]<class To>(To) {
        with_element(in.dtype, [&]<class From>(From) {
            To* to = out.as<To>();
            const From* from = in.as<From>();
#pragma omp parallel for simd schedule(static)
            for (std::int64_t i = 0; i < count; ++i) to[i] = from_float<To>(to_float(from[i]));
        });
    });
}

void convert_by_chance(Tensor out, Tensor in, std::uint64_t seed) {
    const std::int64_t count = out.elements();
    bf16* to = out.as<bf16>();
    const float* from = in.as<float>();
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < count; ++i) {
        // Of the 16 bits that go, as many in 2^16 chances carry into those that stay.
        const auto bits = std::bit_cast<std::uint32_t>(from[i]);
        const auto chance = static_cast<std::uint32_t>(bits_at(seed, static_cast<std::uint64_t>(i)) >> 48);
        const bool finite = (bits & 0x7f800000U) != 0x7f800000U;
        to[i] = finite ? bf16{static_cast<std::uint16_t>((bits + chance) >> 16)} : to_bf16(from[i]);
    }
}

void fill_zero(Tensor out) {
    constexpr std::int64_t piece = 1 << 20;
#pragma omp parallel for schedule(static)
    for (std::int64_t first = 0; first < out.bytes(); first += piece) {
        std::memset(out.data + first, 0, static_cast<std::size_t>(std::min(piece, out.bytes() - first)));
    }
}

}  // namespace pvtune::cpu
