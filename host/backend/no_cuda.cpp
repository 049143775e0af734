// Stands in for host/backend/cuda where the build has no CUDA.
#include "host/backend/backend.h"
#include "io/error.h"

namespace pvtune {

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions&) {
    throw Error(
        "--device cuda: this build has no CUDA (no nvcc or no device when it was made): use --device cpu, or "
        "run make clean build on a machine with both");
}

}  // namespace pvtune
