#pragma once

// What CUDA C++ cannot say without changing the whole file's arithmetic (-use_fast_math) or its register budget.

#include "cuda/device.cuh"

namespace pvtune::cuda {

#ifdef __CUDACC__

/// 2^x to 2 units in the last place; zero where the result is below 2^-126.
__device__ inline float exp2_fast(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
    return result;
}

/// 1 / x to 1 unit in the last place; zero where the result is below 2^-126.
__device__ inline float reciprocal_fast(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
    return result;
}

/// x. What a loop computes from it stays in the loop: moved out, as compilers like to, it would hold registers that a
/// kernel with full accumulators does not have.
__device__ inline unsigned kept_in_loop(unsigned x) {
    asm volatile("" : "+r"(x));
    return x;
}

#else

inline float exp2_fast(float x) { return exp2f(x); }
inline float reciprocal_fast(float x) { return 1.0F / x; }
inline unsigned kept_in_loop(unsigned x) { return x; }

#endif

}  // namespace pvtune::cuda
