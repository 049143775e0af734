#pragma once

#include "host/backend/ops.h"
#include "tests/tensors.h"

#include <ostream>

namespace pvtune::testing {

struct ScalarShape {
    std::int64_t rows, columns, group;
    int bits;

    std::int64_t grids() const { return (columns + group - 1) / group; }
    std::int64_t levels() const { return std::int64_t{1} << bits; }
};

inline std::ostream& operator<<(std::ostream& out, const ScalarShape& shape) {
    return out << shape.rows << " x " << shape.columns << ", groups of " << shape.group << ", " << shape.bits
               << " bits";
}

/// A matrix on random grids, some of them turned around; the second grid has scale 0 where there are several.
struct ScalarMatrix {
    ScalarShape shape;
    OwnedTensor codes, scales, zeros;

    ScalarMatrix(const ScalarShape& s, std::uint32_t seed)
        : shape(s),
          codes(DType::u8, {s.rows, s.columns}),
          scales(random_tensor(DType::f32, {s.rows, s.grids()}, seed)),
          zeros(random_tensor(DType::f32, {s.rows, s.grids()}, seed + 1, static_cast<double>(s.levels()))) {
        std::mt19937 engine(seed + 2);
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            codes->as<std::uint8_t>()[i] = static_cast<std::uint8_t>(engine() % static_cast<unsigned>(s.levels()));
        }
        if (scales->elements() > 2) scales.set(1, 0);
    }
    ScalarCodes scalar() const { return {codes, scales, zeros, shape.group, shape.levels()}; }
    std::size_t grid_of(std::int64_t at) const {
        return static_cast<std::size_t>(at / shape.columns * shape.grids() + at % shape.columns / shape.group);
    }
    /// What weight `at` would be with a code, from scales and zeros in double.
    double value(std::int64_t at, int code, const Values& s, const Values& z) const {
        return s[grid_of(at)] * (code - z[grid_of(at)]);
    }
    Values weights(const Values& s, const Values& z) const {
        Values out;
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            out.push_back(value(i, codes->as<std::uint8_t>()[i], s, z));
        }
        return out;
    }
    Values weights() const { return weights(values_of(scales), values_of(zeros)); }
};

/// Odd sizes, rows that the groups do not divide, whole rows.
inline const ScalarShape scalar_shapes[] = {{5, 128, 32, 3}, {3, 320, 128, 4}, {7, 45, 32, 2},  {1, 1, 32, 8},
                                            {19, 77, 77, 3}, {4, 100, 64, 4},  {2, 600, 600, 2}};

/// Every third weight, from the end.
inline OwnedTensor some_weights(std::int64_t count) {
    OwnedTensor chosen(DType::u32, {(count + 2) / 3});
    for (std::int64_t i = 0; i < chosen->elements(); ++i) chosen.set(i, static_cast<double>(count - 1 - 3 * i));
    return chosen;
}

}  // namespace pvtune::testing
