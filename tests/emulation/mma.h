#pragma once

#include "tests/emulation/scheduler.h"

#include <cstdint>

// The warp-wide operations of cuda/mma.cuh, from the tables of the PTX ISA.
namespace pvtune::cuda::emulation {

void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Where where = Where::current());
void load_matrices(std::uint32_t (&fragments)[4], const void* row, Where where = Where::current());
void load_matrices_transposed(std::uint32_t (&fragments)[4], const void* row, Where where = Where::current());

}  // namespace pvtune::cuda::emulation
