#pragma once

#include "host/backend/tensor.h"

#include <gtest/gtest.h>

#include <omp.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <new>
#include <random>
#include <vector>

/// Tensors for tests: memory of their own, random values from fixed seeds, comparisons, finite differences.
namespace pvtune::testing {

/// A tensor that owns its memory: 64-byte aligned, exactly as long as its elements, so that the address sanitizer sees
/// every access beyond them. Zero-filled.
class OwnedTensor {
public:
    OwnedTensor() = default;
    OwnedTensor(DType dtype, std::initializer_list<std::int64_t> shape) : tensor_(nullptr, dtype, shape) { allocate(); }
    OwnedTensor(const OwnedTensor& other) : tensor_(other.tensor_) {
        allocate();
        if (memory_) std::memcpy(tensor_.data, other.tensor_.data, bytes());
    }
    OwnedTensor(OwnedTensor&&) = default;
    OwnedTensor& operator=(const OwnedTensor& other) {
        OwnedTensor copy(other);
        return *this = std::move(copy);
    }
    OwnedTensor& operator=(OwnedTensor&&) = default;

    operator Tensor() const { return tensor_; }  // NOLINT(google-explicit-constructor): stands for the tensor
    const Tensor* operator->() const { return &tensor_; }

    /// Sets every element from `next()`.
    template <class Next>
    OwnedTensor& fill(Next next) {
        for (std::int64_t i = 0; i < tensor_.elements(); ++i) set(i, next());
        return *this;
    }
    void set(std::int64_t i, double value) {
        switch (tensor_.dtype) {
            case DType::f32:
                tensor_.as<float>()[i] = static_cast<float>(value);
                break;
            case DType::bf16:
                tensor_.as<bf16>()[i] = to_bf16(static_cast<float>(value));
                break;
            case DType::u32:
                tensor_.as<std::uint32_t>()[i] = static_cast<std::uint32_t>(value);
                break;
            case DType::u8:
                tensor_.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(value);
                break;
            default:
                FAIL() << "no such elements in tests";
        }
    }

private:
    struct Free {
        void operator()(std::byte* memory) const { ::operator delete (memory, std::align_val_t{64}); }
    };
    std::size_t bytes() const { return tensor_.empty() ? 0 : static_cast<std::size_t>(tensor_.bytes()); }
    void allocate() {
        if (bytes() == 0) return;
        memory_.reset(static_cast<std::byte*>(::operator new (bytes(), std::align_val_t{64})));
        std::memset(memory_.get(), 0, bytes());
        tensor_.data = memory_.get();
    }

    Tensor tensor_;
    std::unique_ptr<std::byte, Free> memory_;
};

/// Numbers in [-scale, scale), the same for a seed on every machine.
class Uniform {
public:
    explicit Uniform(std::uint32_t seed, double scale = 1) : engine_(seed), scale_(scale) {}
    double operator()() { return (static_cast<double>(engine_() >> 8) * 0x1p-23 - 1) * scale_; }

private:
    std::mt19937 engine_;
    double scale_;
};

inline OwnedTensor random_tensor(DType dtype, std::initializer_list<std::int64_t> shape, std::uint32_t seed,
                                 double scale = 1) {
    OwnedTensor tensor(dtype, shape);
    tensor.fill(Uniform(seed, scale));
    return tensor;
}

/// Whole numbers in [0, limit).
inline OwnedTensor random_ids(std::int64_t count, std::int64_t limit, std::uint32_t seed) {
    OwnedTensor tensor(DType::u32, {count});
    std::mt19937 engine(seed);
    tensor.fill([&] { return static_cast<double>(engine() % static_cast<std::uint32_t>(limit)); });
    return tensor;
}

inline std::vector<double> values_of(Tensor tensor) {
    std::vector<double> values(static_cast<std::size_t>(tensor.elements()));
    for (std::size_t i = 0; i < values.size(); ++i) {
        switch (tensor.dtype) {
            case DType::f32:
                values[i] = static_cast<double>(tensor.as<float>()[i]);
                break;
            case DType::bf16:
                values[i] = static_cast<double>(to_float(tensor.as<bf16>()[i]));
                break;
            case DType::f64:
                values[i] = tensor.as<double>()[i];
                break;
            case DType::u32:
                values[i] = static_cast<double>(tensor.as<std::uint32_t>()[i]);
                break;
            default:
                ADD_FAILURE() << "no such elements in tests";
        }
    }
    return values;
}

/// Largest difference relative to the largest expected value; infinite for NaN.
inline double relative_error(const std::vector<double>& got, const std::vector<double>& expected) {
    if (got.size() != expected.size()) return INFINITY;
    double largest = 0;
    double difference = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double here = std::abs(got[i] - expected[i]);
        if (!(here < INFINITY)) return INFINITY;
        difference = std::max(difference, here);
        largest = std::max(largest, std::abs(expected[i]));
    }
    return largest > 0 ? difference / largest : difference;
}
inline double relative_error(Tensor got, const std::vector<double>& expected) {
    return relative_error(values_of(got), expected);
}

inline ::testing::AssertionResult same_bits(Tensor a, Tensor b) {
    if (a.dtype != b.dtype || a.extents() != b.extents()) return ::testing::AssertionFailure() << "other shapes";
    const std::int64_t size = size_of(a.dtype);
    for (std::int64_t i = 0; i < a.elements(); ++i) {
        if (std::memcmp(a.data + i * size, b.data + i * size, static_cast<std::size_t>(size)) != 0) {
            return ::testing::AssertionFailure() << "element " << i << " differs";
        }
    }
    return ::testing::AssertionSuccess();
}

/// f32 sums of some hundred terms of mixed sign: a few dozen roundings of 2^-24 in the worst element.
inline constexpr double f32_tolerance = 5e-6;
/// A result rounded to bf16 (2^-8 of itself at most), of operands that were rounded there a few times on the way.
inline constexpr double bf16_tolerance = 1.6e-2;
inline double tolerance_of(DType dtype) { return dtype == DType::f32 ? f32_tolerance : bf16_tolerance; }

/// Runs body with this many OpenMP threads.
template <class Body>
void with_threads(int threads, Body&& body) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    body();
    omp_set_num_threads(before);
}

/// run() makes the results of an operation; they must have the same bits with 1, 2 and 3 threads.
template <class Run>
void expect_same_bits_for_any_threads(Run run) {
    std::vector<OwnedTensor> one;
    with_threads(1, [&] { one = run(); });
    for (const int threads : {2, 3}) {
        std::vector<OwnedTensor> more;
        with_threads(threads, [&] { more = run(); });
        ASSERT_EQ(more.size(), one.size());
        for (std::size_t i = 0; i < one.size(); ++i) {
            EXPECT_TRUE(same_bits(one[i], more[i])) << "result " << i << ", " << threads << " threads";
        }
    }
}

using Values = std::vector<double>;

inline double dot(const Values& a, const Values& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

/// Central differences of f at `at`, coordinate by coordinate. f is a plain-loop oracle in double, which the forward
/// tests hold the operation against: in double the differences are good to about 1e-9, in f32 to 1e-3 at best.
inline Values numeric_gradient(Values at, const std::function<double(const Values&)>& f, double step = 1e-5) {
    Values gradient(at.size());
    for (std::size_t i = 0; i < at.size(); ++i) {
        const double here = at[i];
        at[i] = here + step;
        const double above = f(at);
        at[i] = here - step;
        const double below = f(at);
        at[i] = here;
        gradient[i] = (above - below) / (2 * step);
    }
    return gradient;
}

}  // namespace pvtune::testing
