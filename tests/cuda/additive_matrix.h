#pragma once

// Quantised matrices for the tests of kernels on additive codebooks.

#include "host/backend/cpu/quant_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {

struct AdditiveShape {
    std::int64_t rows, groups, group, books, size;
    DType codes;
};

inline std::ostream& operator<<(std::ostream& out, const AdditiveShape& shape) {
    return out << shape.rows << " rows of " << shape.groups << " groups of " << shape.group << ", " << shape.books
               << " codebooks of " << shape.size << ", " << name_of(shape.codes);
}

/// Random codes, codebooks and scales in host memory; one row of scale 0 where there are several.
struct AdditiveMatrix {
    AdditiveShape shape;
    OwnedTensor codes, codebooks, scales;

    AdditiveMatrix(const AdditiveShape& s, std::uint32_t seed)
        : shape(s),
          codes(s.codes, {s.rows, s.groups, s.books}),
          codebooks(random_tensor(DType::f32, {s.books, s.size, s.group}, seed)),
          scales(random_tensor(DType::f32, {s.rows}, seed + 1)) {
        std::mt19937 engine(seed + 2);
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            set_code(i, engine() % static_cast<std::uint32_t>(s.size));
        }
        if (s.rows > 2) scales.set(1, 0);
    }
    void set_code(std::int64_t i, std::uint32_t value) {
        if (shape.codes == DType::u8) codes->as<std::uint8_t>()[i] = static_cast<std::uint8_t>(value);
        if (shape.codes == DType::u16) codes->as<std::uint16_t>()[i] = static_cast<std::uint16_t>(value);
    }
    std::int64_t columns() const { return shape.groups * shape.group; }
    std::int64_t group_count() const { return shape.rows * shape.groups; }
    AdditiveCodes additive() const { return {codes, codebooks, scales}; }
};

/// The matrix on the device.
struct DeviceMatrix {
    AdditiveShape shape;
    DeviceTensor codes, codebooks, scales;

    explicit DeviceMatrix(const AdditiveMatrix& matrix)
        : shape(matrix.shape), codes(matrix.codes), codebooks(matrix.codebooks), scales(matrix.scales) {}

    template <class Code>
    AdditiveView<Code> view() const {
        return {codes.as<Code>(), codebooks.as<float>(), scales.as<float>(), shape.rows,
                shape.groups,     shape.books,           shape.size,         shape.group};
    }
    /// Calls body(view) with the type of the codes.
    template <class Body>
    void with_view(Body&& body) const {
        if (shape.codes == DType::u8) return body(view<std::uint8_t>());
        body(view<std::uint16_t>());
    }
};

}  // namespace pvtune::cuda
