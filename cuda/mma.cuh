#pragma once

// Warp-wide matrix products on tensor cores, sm_80 and newer; the fragment layouts are those of the PTX ISA, sections
// "Matrix Fragments for mma.m16n8k16 with floating point type" and "ldmatrix".

#include "cuda/device.cuh"

namespace pvtune::cuda {

#ifdef __CUDACC__

/// d (16 x 8, f32) += a (16 x 16, bf16, row) * b (16 x 8, bf16, column).
__device__ inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 matrices of 16-bit elements from shared memory; lane l gives the address of row l % 8 of matrix l / 8.
/// "memory": the compiler must not move a write to the tile across the read, which it sees no pointer of.
__device__ inline void load_matrices(std::uint32_t (&fragments)[4], const void* row) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
                 : "r"(address)
                 : "memory");
}

/// The same, each matrix transposed.
__device__ inline void load_matrices_transposed(std::uint32_t (&fragments)[4], const void* row) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
                 : "r"(address)
                 : "memory");
}

/// Two f32 rounded to bf16 in one register, `low` in the lower half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
    std::uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

#else

using emulation::load_matrices;
using emulation::load_matrices_transposed;
using emulation::mma_bf16;

inline std::uint32_t pack_bf16(float low, float high) {
    return to_bf16(low).bits | (static_cast<std::uint32_t>(to_bf16(high).bits) << 16);
}

#endif

}  // namespace pvtune::cuda
