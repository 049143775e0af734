#pragma once

// 16 bytes of an array at a time, as f32 values.

#include "cuda/mma.cuh"

namespace pvtune::cuda {

/// Elements in 16 bytes.
template <class T>
inline constexpr int lanes_of = 16 / static_cast<int>(sizeof(T));

/// values = from[0 .. lanes_of<T>); `from` is 16-byte aligned.
template <class T>
__device__ inline void load_lanes(float (&values)[lanes_of<T>], const T* from) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    if constexpr (sizeof(T) == 4) {
        for (int i = 0; i < 4; ++i) values[i] = __uint_as_float(words[i]);
    } else {
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = __uint_as_float(words[i] << 16);
            values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
        }
    }
}

/// to[0 .. lanes_of<T>) = values; `to` is 16-byte aligned.
template <class T>
__device__ inline void store_lanes(T* to, const float (&values)[lanes_of<T>]) {
    std::uint32_t words[4];
    if constexpr (sizeof(T) == 4) {
        for (int i = 0; i < 4; ++i) words[i] = __float_as_uint(values[i]);
    } else {
        for (int i = 0; i < 4; ++i) words[i] = pack_bf16(values[2 * i], values[2 * i + 1]);
    }
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

/// `count` consecutive elements in registers as they lie in memory: half the registers of their f32 values for bf16.
/// count is 1 or a power of two that fills whole words.
template <class T, int count>
struct Packed {
    static constexpr int bytes = count * static_cast<int>(sizeof(T));
    std::uint32_t words[bytes < 4 ? 1 : bytes / 4];
};

/// The elements from[0 .. count), in the widest loads there are; `from` is aligned to min(16, their bytes).
template <int count, class T>
__device__ inline Packed<T, count> load_packed(const T* from) {
    Packed<T, count> packed;
    constexpr int bytes = Packed<T, count>::bytes;
    if constexpr (bytes == 2) {
        packed.words[0] = *reinterpret_cast<const std::uint16_t*>(from);
    } else if constexpr (bytes == 4) {
        packed.words[0] = *reinterpret_cast<const std::uint32_t*>(from);
    } else if constexpr (bytes == 8) {
        const uint2 bits = *reinterpret_cast<const uint2*>(from);
        packed.words[0] = bits.x;
        packed.words[1] = bits.y;
    } else {
        for (int i = 0; i < bytes / 16; ++i) {
            const uint4 bits = reinterpret_cast<const uint4*>(from)[i];
            packed.words[4 * i] = bits.x;
            packed.words[4 * i + 1] = bits.y;
            packed.words[4 * i + 2] = bits.z;
            packed.words[4 * i + 3] = bits.w;
        }
    }
    return packed;
}

template <class T, int count>
__device__ inline void unpack(float (&values)[count], const Packed<T, count>& packed) {
    for (int i = 0; i < count; ++i) {
        if constexpr (sizeof(T) == 4) {
            values[i] = __uint_as_float(packed.words[i]);
        } else {
            const std::uint32_t word = packed.words[i / 2];
            values[i] = __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000U);
        }
    }
}

/// values = from[0 .. count), aligned as for load_packed.
template <int count, class T>
__device__ inline void load_values(float (&values)[count], const T* from) {
    unpack(values, load_packed<count>(from));
}

/// to[0 .. count) = the elements, aligned as for load_packed.
template <class T, int count>
__device__ inline void store_packed(T* to, const Packed<T, count>& packed) {
    constexpr int bytes = Packed<T, count>::bytes;
    const auto& words = packed.words;
    if constexpr (bytes == 2) {
        *reinterpret_cast<std::uint16_t*>(to) = static_cast<std::uint16_t>(words[0]);
    } else if constexpr (bytes == 4) {
        *reinterpret_cast<std::uint32_t*>(to) = words[0];
    } else if constexpr (bytes == 8) {
        *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
    } else {
        for (int i = 0; i < bytes / 16; ++i) {
            reinterpret_cast<uint4*>(to)[i] =
                make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
        }
    }
}

/// to[0 .. count) = values, aligned as for load_packed.
template <int count, class T>
__device__ inline void store_values(T* to, const float (&values)[count]) {
    Packed<T, count> packed;
    if constexpr (sizeof(T) == 4) {
        for (int i = 0; i < count; ++i) packed.words[i] = __float_as_uint(values[i]);
    } else if constexpr (count == 1) {
        packed.words[0] = to_bf16(values[0]).bits;
    } else {
        for (int i = 0; i < count / 2; ++i) packed.words[i] = pack_bf16(values[2 * i], values[2 * i + 1]);
    }
    store_packed(to, packed);
}

}  // namespace pvtune::cuda
