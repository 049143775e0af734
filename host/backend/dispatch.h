#pragma once

#include "io/dtype.h"

#include <cstdint>
#include <stdexcept>
#include <utility>

/// From what a tensor holds to template parameters.
namespace pvtune {

/// Calls body.template operator()<T>() with T = float or bf16.
template <class Body>
decltype(auto) with_float_type(DType dtype, Body&& body) {
    if (dtype == DType::f32) return std::forward<Body>(body).template operator()<float>();
    if (dtype == DType::bf16) return std::forward<Body>(body).template operator()<bf16>();
    throw std::logic_error("an operation got a tensor that is neither f32 nor bf16");
}

/// Calls body.template operator()<T>() with T = std::uint8_t or std::uint16_t.
template <class Body>
decltype(auto) with_code_type(DType dtype, Body&& body) {
    if (dtype == DType::u8) return std::forward<Body>(body).template operator()<std::uint8_t>();
    if (dtype == DType::u16) return std::forward<Body>(body).template operator()<std::uint16_t>();
    throw std::logic_error("an operation got codes that are neither u8 nor u16");
}

/// Calls body.template operator()<group>() with the number of weights a group as a constant.
template <class Body>
decltype(auto) with_group(std::int64_t group, Body&& body) {
    switch (group) {
        case 4:
            return std::forward<Body>(body).template operator()<4>();
        case 8:
            return std::forward<Body>(body).template operator()<8>();
        case 16:
            return std::forward<Body>(body).template operator()<16>();
        default:
            throw std::logic_error("groups of weights have 4, 8 or 16 members");
    }
}

}  // namespace pvtune
