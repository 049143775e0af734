#pragma once

// CUDA's short vectors, with the alignment that they have on the device: 2 and 4 elements load as one word.

// NOLINTBEGIN(readability-identifier-naming)

#define PVTUNE_VECTORS(name, element)                                                       \
    struct name##1 {                                                                        \
        element x;                                                                          \
    };                                                                                      \
    struct alignas(2 * sizeof(element)) name##2 {                                           \
        element x, y;                                                                       \
    };                                                                                      \
    struct name##3 {                                                                        \
        element x, y, z;                                                                    \
    };                                                                                      \
    struct alignas(4 * sizeof(element) < 16 ? 4 * sizeof(element) : 16) name##4 {           \
        element x, y, z, w;                                                                 \
    };                                                                                      \
    constexpr name##1 make_##name##1(element x) { return {x}; }                             \
    constexpr name##2 make_##name##2(element x, element y) { return {x, y}; }               \
    constexpr name##3 make_##name##3(element x, element y, element z) { return {x, y, z}; } \
    constexpr name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }

PVTUNE_VECTORS(char, signed char)
PVTUNE_VECTORS(uchar, unsigned char)
PVTUNE_VECTORS(short, short)
PVTUNE_VECTORS(ushort, unsigned short)
PVTUNE_VECTORS(int, int)
PVTUNE_VECTORS(uint, unsigned)
PVTUNE_VECTORS(longlong, long long)
PVTUNE_VECTORS(ulonglong, unsigned long long)
PVTUNE_VECTORS(float, float)
PVTUNE_VECTORS(double, double)
#undef PVTUNE_VECTORS

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 extents) : x(extents.x), y(extents.y), z(extents.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};

// NOLINTEND(readability-identifier-naming)
