#pragma once

#include "host/backend/backend.h"
#include "host/backend/cpu/chunks.h"

#include <span>

namespace pvtune {

/// Tensors that the quantisation of one matrix needs on the backend's device; freed with this.
class DeviceScratch {
public:
    explicit DeviceScratch(Backend& backend) : backend_(backend), arena_(backend.new_arena()) {}

    Tensor allocate(DType dtype, std::initializer_list<std::int64_t> shape) {
        return arena_->allocate("quantising a matrix", dtype, shape);
    }
    template <class T>
    Tensor upload(std::span<const T> values, std::initializer_list<std::int64_t> shape) {
        const Tensor tensor = allocate(dtype_of<T>, shape);
        assert(tensor.elements() == static_cast<std::int64_t>(values.size()));
        backend_.upload(tensor, values.data());
        return tensor;
    }
    /// tr(a hessian b^T), summed row by row in order.
    double hessian_product(Tensor a, Tensor b, Tensor hessian) {
        const Tensor products = row_sums(a.dim(0));
        backend_.ops().hessian_products(products, a, b, hessian);
        return cpu::ordered_sum(download<double>(products));
    }
    /// <a[o], b[o]> for every row.
    std::vector<double> row_products(Tensor a, Tensor b) {
        const Tensor products = row_sums(a.dim(0));
        backend_.ops().row_products(products, a, b);
        return download<double>(products);
    }
    template <class T>
    std::vector<T> download(Tensor tensor) {
        std::vector<T> values(static_cast<std::size_t>(tensor.elements()));
        assert(tensor.dtype == dtype_of<T>);
        backend_.download(values.data(), tensor);
        return values;
    }

private:
    Tensor row_sums(std::int64_t rows) {
        if (sums_.empty()) sums_ = allocate(DType::f64, {rows});
        assert(sums_.elements() == rows);
        return sums_;
    }

    Backend& backend_;
    std::unique_ptr<Arena> arena_;
    Tensor sums_;
};

}  // namespace pvtune
