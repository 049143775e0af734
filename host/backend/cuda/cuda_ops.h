#pragma once

#include "cuda/gemm.h"
#include "host/backend/cuda/memory.h"
#include "host/backend/ops.h"

#include <memory>

namespace pvtune::cuda {

/// The operations on a stream of the device: each checks what it was given and calls its launcher in cuda/kernels.h.
std::unique_ptr<Ops> make_ops(Stream stream, Workspace& workspace, Gemm& gemm);

}  // namespace pvtune::cuda
