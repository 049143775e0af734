#pragma once

#include "host/quant/own_memory.h"
#include "host/quant/representation.h"

namespace pvtune {

/// W[o, i] = scales[o, g] * (codes[o, i] - zeros[o, g]), g = i / group: a grid of 2^code_bits values for each group of
/// columns in a row, or for the whole row. The columns that the groups do not divide are a shorter last one. Scales and
/// zeros are both continuous; the V step moves one weight at a time.
class ScalarRepresentation : public Representation {
public:
    /// Allocates codes, scales and zeros, all zero.
    ScalarRepresentation(Backend& backend, std::int64_t rows, std::int64_t columns, const QuantizationSpec& spec);

    std::string name() const override { return "scalar"; }
    std::int64_t rows() const override { return scalar_.codes.dim(0); }
    std::int64_t columns() const override { return scalar_.codes.dim(1); }
    std::int64_t group() const override { return 1; }
    std::int64_t bits() const override { return bits_of(spec_, rows(), columns()); }

    void dequantize(Ops& ops, Tensor weight) const override { ops.dequantize_scalar(weight, scalar_); }
    void forward_row(Ops& ops, Tensor out, Tensor in, Tensor bias) const override {
        ops.linear_from_scalar(out, in, scalar_, bias);
    }
    std::vector<ContinuousParameter> parameters() const override;
    void backward(Ops& ops, std::span<const Tensor> gradients, Tensor d_weight) const override;
    void assign(Ops& ops, Tensor changed, Tensor target, Tensor groups, int /*beam*/) override {
        ops.assign_scalar(scalar_, changed, target, groups);
    }
    DType code_dtype() const override { return DType::u8; }
    std::int64_t codes_per_group() const override { return 1; }
    void gather_codes(Ops& ops, Tensor saved, Tensor groups) const override {
        ops.gather_codes(saved, scalar_.codes, groups);
    }
    void code_change(Ops& ops, Tensor change, Tensor saved, Tensor groups) const override {
        ops.scalar_change(change, scalar_, saved, groups);
    }
    void restore_codes(Ops& ops, Tensor saved, Tensor groups, Tensor keep) override {
        ops.restore_codes(scalar_.codes, saved, groups, keep);
    }
    void assign_different(Ops& ops, Tensor changed, Tensor target, Tensor groups) override {
        ops.scalar_different(scalar_, changed, target, groups);
    }
    void code_distance(Ops& ops, Tensor distance, Tensor target, Tensor groups) const override {
        ops.scalar_distance(distance, scalar_, target, groups);
    }
    void code_product(Ops& ops, Tensor product, Tensor gradient, Tensor saved, Tensor groups) const override {
        ops.scalar_product(product, scalar_, gradient, saved, groups);
    }
    void eager_score(Ops& ops, Tensor scores, Tensor changes, Tensor gradient, Tensor second_moment, float correction,
                     float epsilon) const override {
        ops.scalar_eager_score(scores, changes, scalar_, gradient, second_moment, correction, epsilon);
    }
    void apply_changes(Ops& ops, Tensor changed, Tensor changes, Tensor scores, Tensor groups) override {
        ops.apply_changes(scalar_.codes, changed, changes, scores, groups, scalar_.levels);
    }
    void save(Backend& backend, StoreWriter& store, const std::string& path, bool exact) const override;

    const ScalarCodes& scalar() const { return scalar_; }
    /// Copies values from the host; sizes are those of the tensors.
    void upload(Backend& backend, std::span<const std::uint8_t> codes, std::span<const float> scales,
                std::span<const float> zeros);

private:
    OwnMemory memory_;
    QuantizationSpec spec_;
    ScalarCodes scalar_;
};

/// Columns that share a grid, of a matrix with so many.
std::int64_t grid_columns(const QuantizationSpec& spec, std::int64_t columns);
/// Grids of a row.
std::int64_t grids_of(const QuantizationSpec& spec, std::int64_t columns);

void check_scalar_spec(const QuantizationSpec& spec);
std::int64_t scalar_bits(const QuantizationSpec& spec, std::int64_t rows, std::int64_t columns);
std::unique_ptr<Representation> load_scalar(Backend& backend, const StoreReader& store, const std::string& path);

}  // namespace pvtune
