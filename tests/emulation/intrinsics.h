#pragma once

// CUDA's arithmetic and bit intrinsics. The fast ones (__expf, rsqrtf) are the exact functions here: their last bits
// on a device differ.

#include <bit>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>

// ---- bits as numbers
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long value) { return std::bit_cast<double>(value); }
inline int __double2hiint(double value) { return static_cast<int>(std::bit_cast<std::uint64_t>(value) >> 32); }
inline int __double2loint(double value) { return static_cast<int>(std::bit_cast<std::uint64_t>(value)); }
inline double __hiloint2double(int high, int low) {
    return std::bit_cast<double>(static_cast<std::uint64_t>(static_cast<unsigned>(high)) << 32 |
                                 static_cast<unsigned>(low));
}

// ---- bits
constexpr int __popc(unsigned value) { return std::popcount(value); }
constexpr int __popcll(unsigned long long value) { return std::popcount(value); }
constexpr int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
constexpr int __clzll(long long value) { return std::countl_zero(static_cast<unsigned long long>(value)); }
constexpr int __ffs(int value) { return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1; }
constexpr int __ffsll(long long value) {
    return value == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(value)) + 1;
}
constexpr unsigned __brev(unsigned value) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (value >> i & 1U) << (31 - i);
    return reversed;
}
constexpr unsigned long long __brevll(unsigned long long value) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(value))) << 32 |
           __brev(static_cast<unsigned>(value >> 32));
}
constexpr unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned nibble = selector >> (4 * i) & 0xfU;
        auto byte = static_cast<unsigned>(both >> (8 * (nibble & 7U)) & 0xffU);
        if ((nibble & 8U) != 0) byte = (byte & 0x80U) != 0 ? 0xffU : 0U;
        result |= byte << (8 * i);
    }
    return result;
}
constexpr unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (shift & 31U) >> 32);
}
constexpr unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31U));
}
constexpr int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
constexpr unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}

// ---- conversions; out of range they saturate, a NaN becomes 0 (the smallest number for 64 bits)
namespace pvtune::cuda::emulation {
template <class To, class From>
To saturated(From value) {
    if (std::isnan(value)) return sizeof(To) == 8 ? static_cast<To>(1ULL << 63) : To{0};
    constexpr From limit = static_cast<From>(std::uint64_t{1} << (8 * sizeof(To) - 2)) * (To(-1) < To(0) ? 2 : 4);
    if (value >= limit) return static_cast<To>(To(-1) < To(0) ? ~(To{1} << (8 * sizeof(To) - 1)) : ~To{0});
    if constexpr (To(-1) < To(0)) {
        if (value < -limit) return static_cast<To>(To{1} << (8 * sizeof(To) - 1));
    } else {
        if (value < 0) return To{0};
    }
    return static_cast<To>(value);
}
}  // namespace pvtune::cuda::emulation

#define PVTUNE_TO_INTEGER(name, to, from)                                                                     \
    inline to name##_rn(from value) { return pvtune::cuda::emulation::saturated<to>(std::nearbyint(value)); } \
    inline to name##_rd(from value) { return pvtune::cuda::emulation::saturated<to>(std::floor(value)); }     \
    inline to name##_ru(from value) { return pvtune::cuda::emulation::saturated<to>(std::ceil(value)); }      \
    inline to name##_rz(from value) { return pvtune::cuda::emulation::saturated<to>(std::trunc(value)); }
PVTUNE_TO_INTEGER(__float2int, int, float)
PVTUNE_TO_INTEGER(__float2uint, unsigned, float)
PVTUNE_TO_INTEGER(__float2ll, long long, float)
PVTUNE_TO_INTEGER(__float2ull, unsigned long long, float)
PVTUNE_TO_INTEGER(__double2int, int, double)
PVTUNE_TO_INTEGER(__double2uint, unsigned, double)
PVTUNE_TO_INTEGER(__double2ll, long long, double)
PVTUNE_TO_INTEGER(__double2ull, unsigned long long, double)
#undef PVTUNE_TO_INTEGER

#define PVTUNE_FROM_NUMBER(name, to, from) \
    constexpr to name(from value) { return static_cast<to>(value); }
PVTUNE_FROM_NUMBER(__int2float_rn, float, int)
PVTUNE_FROM_NUMBER(__uint2float_rn, float, unsigned)
PVTUNE_FROM_NUMBER(__ll2float_rn, float, long long)
PVTUNE_FROM_NUMBER(__ull2float_rn, float, unsigned long long)
PVTUNE_FROM_NUMBER(__int2double_rn, double, int)
PVTUNE_FROM_NUMBER(__uint2double_rn, double, unsigned)
PVTUNE_FROM_NUMBER(__ll2double_rn, double, long long)
PVTUNE_FROM_NUMBER(__ull2double_rn, double, unsigned long long)
PVTUNE_FROM_NUMBER(__double2float_rn, float, double)
#undef PVTUNE_FROM_NUMBER

// ---- arithmetic
inline float rsqrtf(float value) { return 1.0F / std::sqrt(value); }
inline double rsqrt(double value) { return 1.0 / std::sqrt(value); }
inline float __frcp_rn(float value) { return 1.0F / value; }
inline float __frsqrt_rn(float value) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(value))); }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double value) { return std::sqrt(value); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __saturatef(float value) { return std::fmin(std::fmax(value, 0.0F), 1.0F); }
// The C library declares these names for itself.
#define __expf(value) std::exp(static_cast<float>(value))
#define __exp10f(value) std::pow(10.0F, static_cast<float>(value))
#define __logf(value) std::log(static_cast<float>(value))
#define __log2f(value) std::log2(static_cast<float>(value))
#define __log10f(value) std::log10(static_cast<float>(value))
#define __powf(base, exponent) std::pow(static_cast<float>(base), static_cast<float>(exponent))
#define __sinf(value) std::sin(static_cast<float>(value))
#define __cosf(value) std::cos(static_cast<float>(value))

#define PVTUNE_MIN_MAX(type, a, b)                                                            \
    constexpr type min(a left, b right) {                                                     \
        return static_cast<type>(left) < static_cast<type>(right) ? static_cast<type>(left)   \
                                                                  : static_cast<type>(right); \
    }                                                                                         \
    constexpr type max(a left, b right) {                                                     \
        return static_cast<type>(left) > static_cast<type>(right) ? static_cast<type>(left)   \
                                                                  : static_cast<type>(right); \
    }
PVTUNE_MIN_MAX(int, int, int)
PVTUNE_MIN_MAX(unsigned, unsigned, unsigned)
PVTUNE_MIN_MAX(unsigned, int, unsigned)
PVTUNE_MIN_MAX(unsigned, unsigned, int)
PVTUNE_MIN_MAX(long, long, long)
PVTUNE_MIN_MAX(unsigned long, unsigned long, unsigned long)
PVTUNE_MIN_MAX(unsigned long, long, unsigned long)
PVTUNE_MIN_MAX(unsigned long, unsigned long, long)
PVTUNE_MIN_MAX(long long, long long, long long)
PVTUNE_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
PVTUNE_MIN_MAX(unsigned long long, long long, unsigned long long)
PVTUNE_MIN_MAX(unsigned long long, unsigned long long, long long)
#undef PVTUNE_MIN_MAX
// Of floating-point numbers: NaN loses.
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
inline double min(float a, double b) { return std::fmin(static_cast<double>(a), b); }
inline double max(float a, double b) { return std::fmax(static_cast<double>(a), b); }
inline double min(double a, float b) { return std::fmin(a, static_cast<double>(b)); }
inline double max(double a, float b) { return std::fmax(a, static_cast<double>(b)); }

// ---- loads and stores with a cache hint
#define PVTUNE_LOAD(name)          \
    template <class T>             \
    inline T name(const T* from) { \
        return *from;              \
    }
#define PVTUNE_STORE(name)             \
    template <class T>                 \
    inline void name(T* to, T value) { \
        *to = value;                   \
    }
PVTUNE_LOAD(__ldg)
PVTUNE_LOAD(__ldca)
PVTUNE_LOAD(__ldcg)
PVTUNE_LOAD(__ldcs)
PVTUNE_LOAD(__ldlu)
PVTUNE_LOAD(__ldcv)
PVTUNE_STORE(__stwb)
PVTUNE_STORE(__stcg)
PVTUNE_STORE(__stcs)
PVTUNE_STORE(__stwt)
#undef PVTUNE_LOAD
#undef PVTUNE_STORE
