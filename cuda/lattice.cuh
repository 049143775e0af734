#pragma once

// What the kernels on E8P codes share: tables of cuda/e8p.h in shared memory, decoding, the check of a geometry.

#include "cuda/device.cuh"
#include "cuda/e8p.h"
#include "cuda/kernels.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace pvtune::cuda {

inline constexpr int lattice_group = e8p::dim;

inline void check_lattice(const LatticeView& lattice) {
    if (lattice.bytes >= 2 && lattice.bytes <= 4 && lattice.rows * lattice.groups <= 0xffffffffLL) return;
    throw std::invalid_argument("E8P codes on the device: " + std::to_string(lattice.rows * lattice.groups) +
                                " groups of " + std::to_string(lattice.bytes) + " bytes, not 2 to 4");
}

/// Calls body.template operator()<bytes>() with the bytes a group as a constant.
template <class Body>
void with_bytes(std::int64_t bytes, Body&& body) {
    if (bytes == 2) return std::forward<Body>(body).template operator()<2>();
    if (bytes == 3) return std::forward<Body>(body).template operator()<3>();
    std::forward<Body>(body).template operator()<4>();
}

/// The tables, copied to shared memory by the whole block; a barrier has to follow.
__device__ inline void load_tables(e8p::Tables& to, const e8p::Tables& from) {
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) {
        to.magnitudes[i] = from.magnitudes[i];
        to.residuals[i] = from.residuals[i];
    }
}

__device__ inline std::uint32_t code_at(const std::uint8_t* codes) { return codes[0] | std::uint32_t{codes[1]} << 8; }

/// Four times the point of an E8P code, as whole numbers.
__device__ inline void decode_e8p(float (&quarters)[lattice_group], const std::uint16_t* magnitudes,
                                  std::uint32_t code) {
    const std::uint32_t entry = magnitudes[code >> 8];
    const std::uint32_t signs = e8p::signs_of(code, entry);
#pragma unroll
    for (int i = 0; i < lattice_group; ++i) quarters[i] = static_cast<float>(e8p::quarters(code, entry, signs, i));
}

/// decode_group of host/backend/cpu/e8p_search.cpp: the same bits. `residuals` is read for 3 bytes alone.
template <int bytes>
__device__ inline void decode_group(float (&values)[lattice_group], const std::uint16_t* magnitudes,
                                    const std::uint32_t* residuals, const std::uint8_t* codes) {
    decode_e8p(values, magnitudes, code_at(codes));
#pragma unroll
    for (int i = 0; i < lattice_group; ++i) values[i] *= 0.25F;
    if constexpr (bytes == 3) {
        const std::uint32_t packed = residuals[codes[2]];
#pragma unroll
        for (int i = 0; i < lattice_group; ++i) {
            values[i] = fmaf(0.5F / e8p::residual_scale_3_bits, static_cast<float>(e8p::halves(packed, i)), values[i]);
        }
    } else if constexpr (bytes == 4) {
        float second[lattice_group];
        decode_e8p(second, magnitudes, code_at(codes + 2));
#pragma unroll
        for (int i = 0; i < lattice_group; ++i) {
            values[i] = fmaf(0.25F / e8p::residual_scale_4_bits, second[i], values[i]);
        }
    }
}

}  // namespace pvtune::cuda
