#pragma once

#include "cuda/kernels.h"

#include <cstddef>

/// cuda/primitives.cuh for a test that nvcc does not compile.
namespace pvtune::cuda::primitives {

std::size_t sort_workspace(std::int64_t count);
void sort(const std::uint32_t* keys_in, std::uint32_t* keys_out, const std::uint32_t* values_in,
          std::uint32_t* values_out, std::int64_t count, void* workspace, std::size_t workspace_bytes, Stream stream);

}  // namespace pvtune::cuda::primitives
