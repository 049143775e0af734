#pragma once

#include "io/dtype.h"

#include <array>
#include <cassert>
#include <cstddef>
#include <initializer_list>
#include <vector>

namespace pvtune {

/// A view of a contiguous row-major array that some Arena owns. On a device backend `data` is a device address.
struct Tensor {
    std::byte* data = nullptr;
    DType dtype = DType::f32;
    int rank = 0;
    std::array<std::int64_t, 4> shape{};

    Tensor() = default;
    Tensor(void* address, DType type, std::initializer_list<std::int64_t> extents)
        : data(static_cast<std::byte*>(address)), dtype(type), rank(static_cast<int>(extents.size())) {
        assert(extents.size() <= shape.size());
        int axis = 0;
        for (const auto extent : extents) shape[static_cast<std::size_t>(axis++)] = extent;
    }

    bool empty() const { return rank == 0; }
    std::int64_t dim(int axis) const { return shape[static_cast<std::size_t>(axis)]; }
    std::int64_t elements() const {
        std::int64_t count = 1;
        for (int axis = 0; axis < rank; ++axis) count *= dim(axis);
        return count;
    }
    std::int64_t bytes() const { return elements() * size_of(dtype); }
    std::vector<std::int64_t> extents() const { return {shape.begin(), shape.begin() + rank}; }

    template <class T>
    T* as() const {
        assert(dtype == dtype_of<T>);
        return reinterpret_cast<T*>(data);
    }

    /// Rows [first, first + count) of the leading dimension.
    Tensor rows(std::int64_t first, std::int64_t count) const {
        assert(rank > 0 && first >= 0 && first + count <= dim(0));
        Tensor part = *this;
        part.data += first * (dim(0) ? bytes() / dim(0) : 0);
        part.shape[0] = count;
        return part;
    }
    /// The same elements under another shape.
    Tensor reshaped(std::initializer_list<std::int64_t> extents) const {
        Tensor view(data, dtype, extents);
        assert(view.elements() == elements());
        return view;
    }
};

}  // namespace pvtune
