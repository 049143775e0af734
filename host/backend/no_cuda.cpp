// Stands in for host/backend/cuda and host/bench/cuda where the build has no CUDA.
#include "host/backend/backend.h"
#include "host/bench/registry.h"
#include "io/error.h"

namespace pvtune {

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
    if (options.planning) {
        throw Error(
            "--device cuda: this build has no CUDA; a plan needs a build with it, but no device: "
            "`make VARIANT=device CUDA=1 build/device/pvtune` where there is nvcc");
    }
    throw Error(
        "--device cuda: this build has no CUDA (no nvcc or no device when it was made): use --device cpu, or "
        "run make clean build on a machine with both");
}

void add_cuda_versions(Registry&, const BenchSetting&) {}

}  // namespace pvtune
