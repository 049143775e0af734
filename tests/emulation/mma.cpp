#include "tests/emulation/mma.h"
#include "io/dtype.h"
#include "tests/emulation/device_memory.h"
#include "tests/emulation/observer.h"
#include "tests/emulation/shared_memory.h"
#include "tests/emulation/warp.h"

#include <cstring>

namespace pvtune::cuda::emulation {
namespace {

constexpr unsigned whole_warp = 0xffffffffU;

/// Of the two bf16 in a register, the lower (0) or upper (1).
float half_of(std::uint32_t pair, int which) {
    return to_float(bf16{static_cast<std::uint16_t>(which == 0 ? pair : pair >> 16)});
}

struct Products {
    float* d;
    const std::uint32_t* a;
    const std::uint32_t* b;
};

/// Half of a sanitizer's run would go into checks of these indices.
__attribute__((no_sanitize("address", "undefined"))) void product(float (&sums)[16][8], const float (&a)[16][16],
                                                                  const float (&b)[16][8]) {
    for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) sums[row][column] = a[row][0] * b[0][column];
        for (int k = 1; k < 16; ++k) {
            for (int column = 0; column < 8; ++column) sums[row][column] += a[row][k] * b[k][column];
        }
    }
}

/// Lane l belongs to group g = l / 4 and is t = l % 4 in it. It holds of A the rows g (registers 0, 2) and g + 8 (1, 3)
/// in columns 2t, 2t + 1 (0, 1) and 2t + 8, 2t + 9 (2, 3); of B the column g in rows 2t, 2t + 1 (0) and 2t + 8, 2t + 9
/// (1); of D the columns 2t, 2t + 1 in rows g (0, 1) and g + 8 (2, 3).
void multiply(void* const* operands, unsigned) {
    float a[16][16];
    float b[16][8];
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& mine = *static_cast<const Products*>(operands[lane]);
        const int group = lane / 4;
        const int in_group = lane % 4;
        for (int i = 0; i < 4; ++i) {
            for (int j = 0; j < 2; ++j) a[group + 8 * (i % 2)][2 * in_group + j + 8 * (i / 2)] = half_of(mine.a[i], j);
        }
        for (int i = 0; i < 2; ++i) {
            for (int j = 0; j < 2; ++j) b[2 * in_group + j + 8 * i][group] = half_of(mine.b[i], j);
        }
    }
    float sums[16][8];
    product(sums, a, b);
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& mine = *static_cast<const Products*>(operands[lane]);
        for (int i = 0; i < 4; ++i) mine.d[i] += sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
}

struct Rows {
    std::uint32_t* fragments;
    const void* row;
};

/// Lane l gets of every matrix the elements 2 (l % 4) and the next of row l / 4; transposed, of column l / 4.
template <bool transposed>
void distribute(void* const* operands, unsigned) {
    std::uint16_t matrices[4][8][8];
    for (int lane = 0; lane < warp_lanes; ++lane) {
        std::memcpy(matrices[lane / 8][lane % 8], static_cast<const Rows*>(operands[lane])->row, 16);
    }
    for (int lane = 0; lane < warp_lanes; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4;
            const int column = 2 * (lane % 4);
            const auto& matrix = matrices[i];
            const std::uint32_t low = transposed ? matrix[column][row] : matrix[row][column];
            const std::uint32_t high = transposed ? matrix[column + 1][row] : matrix[row][column + 1];
            static_cast<const Rows*>(operands[lane])->fragments[i] = low | high << 16;
        }
    }
}

void load(const char* operation, std::uint32_t* fragments, const void* row, Combine combine, const Where& where) {
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) {
        fault(std::string(operation) + " from an address that is no multiple of 16", where);
    }
    if (in_device_memory(row, 16)) fault(std::string(operation) + " from device memory, not shared", where);
    observe(row, 16, Observer::Access::read, __builtin_return_address(0));
    Rows operands{fragments, row};
    meet(operation, whole_warp, &operands, combine, where);
}

}  // namespace

void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Where where) {
    Products operands{d, a, b};
    meet("mma_bf16", whole_warp, &operands, multiply, where);
}

void load_matrices(std::uint32_t (&fragments)[4], const void* row, Where where) {
    load("load_matrices", fragments, row, distribute<false>, where);
}

void load_matrices_transposed(std::uint32_t (&fragments)[4], const void* row, Where where) {
    load("load_matrices_transposed", fragments, row, distribute<true>, where);
}

}  // namespace pvtune::cuda::emulation
