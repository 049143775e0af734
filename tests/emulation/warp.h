#pragma once

// The operations of a warp: the lanes that the mask names meet, each with its operands; the last one to come works
// for all.

#include "tests/emulation/scheduler.h"

#include <bit>
#include <type_traits>

namespace pvtune::cuda::emulation {

/// The operands of all lanes, by lane; those that the mask does not name are null.
using Combine = void (*)(void* const* operands, unsigned mask);

/// Waits for the lanes in `mask`, which must all come with the same operation and mask. The last calls combine.
void meet(const char* operation, unsigned mask, void* operands, Combine combine, const Where& where);

/// Orders memory between the lanes in the mask.
void warp_barrier(unsigned mask, const Where& where);

/// in: this lane's value. Returns the value of the lane `source`, or bits that mean nothing if it is not in the mask.
std::uint64_t exchange(const char* operation, unsigned mask, std::uint64_t in, int source, const Where& where);

/// The lane that a shuffle reads in groups of `width`.
enum class Shuffle { index, up, down, exclusive_or };
int shuffle_source(Shuffle kind, int offset, int width, const Where& where);

unsigned ballot(const char* operation, unsigned mask, bool predicate, const Where& where);
/// The lanes whose value is this lane's.
unsigned match(const char* operation, unsigned mask, std::uint64_t value, const Where& where);

enum class Reduction { add, smallest, largest, smallest_signed, largest_signed, bits_and, bits_or, bits_xor };
std::uint32_t reduce(const char* operation, unsigned mask, Reduction kind, std::uint32_t value, const Where& where);

template <class T>
std::uint64_t to_bits(T value) {
    if constexpr (sizeof(T) == 4) {
        return std::bit_cast<std::uint32_t>(value);
    } else {
        return std::bit_cast<std::uint64_t>(value);
    }
}
template <class T>
T from_bits(std::uint64_t bits) {
    if constexpr (sizeof(T) == 4) {
        return std::bit_cast<T>(static_cast<std::uint32_t>(bits));
    } else {
        return std::bit_cast<T>(bits);
    }
}

template <class T>
T shuffle(const char* operation, unsigned mask, T value, Shuffle kind, int offset, int width, const Where& where) {
    return from_bits<T>(exchange(operation, mask, to_bits(value), shuffle_source(kind, offset, width, where), where));
}

}  // namespace pvtune::cuda::emulation

// The same overloads as CUDA has, so that the same conversions happen.
#define PVTUNE_SHUFFLES(type)                                                                                  \
    inline type __shfl_sync(unsigned mask, type value, int lane, int width = 32,                               \
                            const std::source_location where = std::source_location::current()) {              \
        using namespace pvtune::cuda::emulation;                                                               \
        return shuffle("__shfl_sync", mask, value, Shuffle::index, lane, width, where);                        \
    }                                                                                                          \
    inline type __shfl_up_sync(unsigned mask, type value, unsigned delta, int width = 32,                      \
                               const std::source_location where = std::source_location::current()) {           \
        using namespace pvtune::cuda::emulation;                                                               \
        return shuffle("__shfl_up_sync", mask, value, Shuffle::up, static_cast<int>(delta), width, where);     \
    }                                                                                                          \
    inline type __shfl_down_sync(unsigned mask, type value, unsigned delta, int width = 32,                    \
                                 const std::source_location where = std::source_location::current()) {         \
        using namespace pvtune::cuda::emulation;                                                               \
        return shuffle("__shfl_down_sync", mask, value, Shuffle::down, static_cast<int>(delta), width, where); \
    }                                                                                                          \
    inline type __shfl_xor_sync(unsigned mask, type value, int lane_mask, int width = 32,                      \
                                const std::source_location where = std::source_location::current()) {          \
        using namespace pvtune::cuda::emulation;                                                               \
        return shuffle("__shfl_xor_sync", mask, value, Shuffle::exclusive_or, lane_mask, width, where);        \
    }
PVTUNE_SHUFFLES(int)
PVTUNE_SHUFFLES(unsigned)
PVTUNE_SHUFFLES(long)
PVTUNE_SHUFFLES(unsigned long)
PVTUNE_SHUFFLES(long long)
PVTUNE_SHUFFLES(unsigned long long)
PVTUNE_SHUFFLES(float)
PVTUNE_SHUFFLES(double)
#undef PVTUNE_SHUFFLES

inline void __syncwarp(unsigned mask = 0xffffffffU,
                       const std::source_location where = std::source_location::current()) {
    pvtune::cuda::emulation::warp_barrier(mask, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              const std::source_location where = std::source_location::current()) {
    return pvtune::cuda::emulation::ballot("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate,
                      const std::source_location where = std::source_location::current()) {
    return pvtune::cuda::emulation::ballot("__any_sync", mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      const std::source_location where = std::source_location::current()) {
    return pvtune::cuda::emulation::ballot("__all_sync", mask, predicate != 0, where) == mask;
}
template <class T>
requires(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8)) unsigned __match_any_sync(
    unsigned mask, T value, const std::source_location where = std::source_location::current()) {
    using namespace pvtune::cuda::emulation;
    return match("__match_any_sync", mask, to_bits(value), where);
}
template <class T>
requires(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8)) unsigned __match_all_sync(
    unsigned mask, T value, int* predicate, const std::source_location where = std::source_location::current()) {
    using namespace pvtune::cuda::emulation;
    *predicate = match("__match_all_sync", mask, to_bits(value), where) == mask;
    return *predicate ? mask : 0;
}

#define PVTUNE_REDUCTION(name, type, kind)                                                                            \
    inline type name(unsigned mask, type value, const std::source_location where = std::source_location::current()) { \
        using namespace pvtune::cuda::emulation;                                                                      \
        return static_cast<type>(reduce(#name, mask, Reduction::kind, static_cast<std::uint32_t>(value), where));     \
    }
PVTUNE_REDUCTION(__reduce_add_sync, unsigned, add)
PVTUNE_REDUCTION(__reduce_add_sync, int, add)
PVTUNE_REDUCTION(__reduce_min_sync, unsigned, smallest)
PVTUNE_REDUCTION(__reduce_min_sync, int, smallest_signed)
PVTUNE_REDUCTION(__reduce_max_sync, unsigned, largest)
PVTUNE_REDUCTION(__reduce_max_sync, int, largest_signed)
PVTUNE_REDUCTION(__reduce_and_sync, unsigned, bits_and)
PVTUNE_REDUCTION(__reduce_or_sync, unsigned, bits_or)
PVTUNE_REDUCTION(__reduce_xor_sync, unsigned, bits_xor)
#undef PVTUNE_REDUCTION
