#pragma once

// Matrices of E8P codes for the tests of their kernels.

#include "host/backend/cpu/quant_ops.h"
#include "host/backend/hadamard.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {

struct LatticeShape {
    std::int64_t rows, columns, bytes;
};

inline std::ostream& operator<<(std::ostream& out, const LatticeShape& shape) {
    return out << shape.rows << " x " << shape.columns << ", " << shape.bytes << " bytes a group";
}

/// Random codes, scale and sides in host memory.
struct LatticeMatrix {
    LatticeShape shape;
    OwnedTensor codes, scale, left, right;

    LatticeMatrix(const LatticeShape& s, std::uint32_t seed)
        : shape(s),
          codes(DType::u8, {s.rows, s.columns / 8, s.bytes}),
          scale(random_tensor(DType::f32, {1}, seed)),
          left(random_tensor(DType::f32, {s.rows}, seed + 1)),
          right(random_tensor(DType::f32, {s.columns}, seed + 2)) {
        std::mt19937 engine(seed + 3);
        for (std::int64_t i = 0; i < codes->elements(); ++i) {
            codes->as<std::uint8_t>()[i] = static_cast<std::uint8_t>(engine());
        }
    }
    std::int64_t groups() const { return shape.rows * shape.columns / 8; }
    LatticeCodes lattice() const { return {codes, scale, left, right}; }
};

/// The matrix on the device, with the factors of its transforms.
struct DeviceLattice {
    LatticeShape shape;
    DeviceTensor codes, scale, left, right, row_factor, column_factor;

    explicit DeviceLattice(const LatticeMatrix& matrix)
        : shape(matrix.shape),
          codes(matrix.codes),
          scale(matrix.scale),
          left(matrix.left),
          right(matrix.right),
          row_factor(factor_of(matrix.shape.rows)),
          column_factor(factor_of(matrix.shape.columns)) {}

    LatticeView view() const {
        return {codes.as<std::uint8_t>(), scale.as<float>(), left.as<float>(), right.as<float>(), shape.rows,
                shape.columns / 8,        shape.bytes};
    }
    DenseFactor of_rows() const { return {row_factor.as<float>(), hadamard_order(shape.rows)}; }
    DenseFactor of_columns() const { return {column_factor.as<float>(), hadamard_order(shape.columns)}; }

private:
    static OwnedTensor factor_of(std::int64_t size) {
        const HadamardFactor& factor = hadamard_factor(size);
        OwnedTensor matrix(DType::f32, {factor.order, factor.order});
        std::copy(factor.matrix.begin(), factor.matrix.end(), matrix->as<float>());
        return matrix;
    }
};

inline constexpr LatticeShape lattice_shapes[] = {{12, 24, 2}, {5, 16, 3},  {32, 72, 4},
                                                  {1, 8, 2},   {33, 40, 3}, {3, 64, 4}};

}  // namespace pvtune::cuda
