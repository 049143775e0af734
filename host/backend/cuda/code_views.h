#pragma once

#include "cuda/kernels.h"
#include "host/backend/cuda/memory.h"
#include "host/backend/dispatch.h"
#include "host/backend/hadamard.h"
#include "host/backend/ops.h"

#include <map>

/// What kernels see of quantised matrices.
namespace pvtune::cuda {

template <class Code>
AdditiveView<Code> view_of(const AdditiveCodes& additive) {
    AdditiveView<Code> view;
    view.codes = additive.codes.as<Code>();
    view.codebooks = additive.codebooks.as<float>();
    view.scales = additive.scales.as<float>();
    view.rows = additive.codes.dim(0);
    view.groups = additive.codes.dim(1);
    view.books = additive.codes.dim(2);
    view.codebook_size = additive.codebooks.dim(1);
    view.group = additive.codebooks.dim(2);
    return view;
}

inline ScalarView view_of(const ScalarCodes& scalar) {
    return {scalar.codes.as<std::uint8_t>(),
            scalar.scales.as<float>(),
            scalar.zeros.as<float>(),
            scalar.codes.dim(0),
            scalar.codes.dim(1),
            scalar.group,
            scalar.levels};
}

/// Calls body(view) with the codes' own type.
template <class Body>
void with_view(const AdditiveCodes& additive, const Body& body) {
    with_code_type(additive.codes.dtype, [&]<class Code>() { body(view_of<Code>(additive)); });
}

inline LatticeView view_of(const LatticeCodes& lattice) {
    LatticeView view;
    view.codes = lattice.codes.as<std::uint8_t>();
    view.scale = lattice.scale.as<float>();
    view.left = lattice.left.as<float>();
    view.right = lattice.right.as<float>();
    view.rows = lattice.codes.dim(0);
    view.groups = lattice.codes.dim(1);
    view.bytes = lattice.codes.dim(2);
    return view;
}

/// The dense factors of Hadamard transforms on the device, made when a size is first met.
class DenseFactors {
public:
    DenseFactor get(std::int64_t size, Stream stream) {
        const HadamardFactor& factor = hadamard_factor(size);
        DeviceMemory& memory = made_[size];
        if (memory.data() == nullptr) {
            memory = DeviceMemory(factor.matrix.size() * sizeof(float));
            check(cudaMemcpyAsync(memory.data(), factor.matrix.data(), memory.bytes(), cudaMemcpyHostToDevice, stream),
                  "the factor of a Hadamard transform");
        }
        return {static_cast<const float*>(memory.data()), factor.order};
    }

private:
    std::map<std::int64_t, DeviceMemory> made_;
};

}  // namespace pvtune::cuda
