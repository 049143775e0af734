#pragma once

// Stands in for nvcc and the CUDA headers where g++ compiles a kernel (docs/kernels.md, "Emulation").

#include "tests/emulation/async_copy.h"
#include "tests/emulation/atomics.h"
#include "tests/emulation/barrier.h"
#include "tests/emulation/intrinsics.h"
#include "tests/emulation/launch.h"
#include "tests/emulation/mma.h"
#include "tests/emulation/qualifiers.h"
#include "tests/emulation/vector_types.h"
#include "tests/emulation/warp.h"

#include <cassert>
#include <cstdio>

extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

inline void __trap(const std::source_location where = std::source_location::current()) {
    pvtune::cuda::emulation::fault("__trap", where);
}
