#pragma once

#include "tests/cuda/device_tensors.h"
#include "tests/scalar_matrix.h"

namespace pvtune::cuda {

/// The matrix on the device.
struct DeviceScalar {
    ScalarShape shape;
    DeviceTensor codes, scales, zeros;

    explicit DeviceScalar(const ScalarMatrix& matrix)
        : shape(matrix.shape), codes(matrix.codes), scales(matrix.scales), zeros(matrix.zeros) {}
    ScalarView view() const {
        return {codes.as<std::uint8_t>(),
                scales.as<float>(),
                zeros.as<float>(),
                shape.rows,
                shape.columns,
                shape.group,
                shape.levels()};
    }
};

}  // namespace pvtune::cuda
