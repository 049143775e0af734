#pragma once

// What CUDA adds to C++ declarations. Blocks run one after the other, so that the shared variables of a kernel can be
// static ones: thread_local as a mark, by which static_shared.cpp finds them; plain where the address sanitizer runs,
// which puts its zones around plain statics only.

#define __global__
#define __device__
#define __host__
#define __constant__
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline __attribute__((always_inline))
