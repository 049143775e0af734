#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace pvtune {

/// Element types of tensors in memory and in stores.
enum class DType : std::uint8_t { f32, bf16, f16, f64, u8, u16, u32, i32, i64 };

constexpr std::int64_t size_of(DType type) {
    switch (type) {
        case DType::u8:
            return 1;
        case DType::bf16:
        case DType::f16:
        case DType::u16:
            return 2;
        case DType::f32:
        case DType::u32:
        case DType::i32:
            return 4;
        case DType::f64:
        case DType::i64:
            return 8;
    }
    return 0;
}

constexpr std::string_view name_of(DType type) {
    switch (type) {
        case DType::f32:
            return "f32";
        case DType::bf16:
            return "bf16";
        case DType::f16:
            return "f16";
        case DType::f64:
            return "f64";
        case DType::u8:
            return "u8";
        case DType::u16:
            return "u16";
        case DType::u32:
            return "u32";
        case DType::i32:
            return "i32";
        case DType::i64:
            return "i64";
    }
    return "?";
}

/// The upper half of an f32: 8 bits of exponent, 7 of mantissa.
struct bf16 {
    std::uint16_t bits;
};

/// IEEE binary16.
using f16 = _Float16;

constexpr float to_float(float value) { return value; }
constexpr float to_float(bf16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }
constexpr float to_float(f16 value) { return static_cast<float>(value); }

/// Rounds to nearest, ties to even; a NaN stays a (quiet) NaN.
constexpr bf16 to_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    const std::uint32_t quiet_nan = (bits >> 16) | 0x40U;
    return {static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded)};
}

template <class T>
constexpr T from_float(float value);
template <>
constexpr float from_float<float>(float value) {
    return value;
}
template <>
constexpr bf16 from_float<bf16>(float value) {
    return to_bf16(value);
}
template <>
constexpr f16 from_float<f16>(float value) {
    return static_cast<f16>(value);
}

/// The nearest that 16 bits hold.
constexpr float round_to_f16(float value) { return to_float(from_float<f16>(value)); }

/// The DType of a C++ element type.
template <class T>
inline constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<f16> = DType::f16;
template <>
inline constexpr DType dtype_of<double> = DType::f64;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::u8;
template <>
inline constexpr DType dtype_of<std::uint16_t> = DType::u16;
template <>
inline constexpr DType dtype_of<std::uint32_t> = DType::u32;
template <>
inline constexpr DType dtype_of<std::int32_t> = DType::i32;
template <>
inline constexpr DType dtype_of<std::int64_t> = DType::i64;

}  // namespace pvtune
