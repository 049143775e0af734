#pragma once

#include "cuda/runtime.h"
#include "tests/emulation/last_error.h"
#include "tests/emulation/scheduler.h"
#include "tests/emulation/shared_memory.h"
#include "tests/emulation/vector_types.h"

#include "cuda/launch_grid.h"

#include <tuple>

namespace pvtune::cuda {

namespace emulation {
/// cudaSuccess if a device would take the launch.
cudaError_t check_launch(dim3 grid, dim3 block_shape, std::size_t shared_bytes);
}  // namespace emulation

template <class T>
T* dynamic_shared() {
    static_assert(alignof(T) <= 128);
    return static_cast<T*>(emulation::dynamic_shared_memory());
}

/// Runs the kernel to its end. Throws CudaError for a launch that a device refuses, KernelFault for what a kernel did.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchGrid& grid, dim3 block, std::size_t shared_bytes, cudaStream_t,
            Arguments... arguments) {
    emulation::kept(emulation::check_launch(grid.blocks, block, shared_bytes));
    check(cudaGetLastError(), "the launch of a kernel", grid.where);  // as for a device: any failure since the last one
    struct Call {
        void (*kernel)(Parameters...);
        std::tuple<Parameters...> parameters;
    } call{kernel, {static_cast<Parameters>(arguments)...}};
    const auto run = [](void* what) {
        const auto& here = *static_cast<const Call*>(what);
        std::apply(here.kernel, here.parameters);
    };
    emulation::run_grid(grid.blocks, block, shared_bytes, run, &call);
}

}  // namespace pvtune::cuda
