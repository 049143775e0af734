#pragma once

#include "host/quant/own_memory.h"
#include "host/quant/representation.h"

namespace pvtune {

/// W[o, g*d + i] = scales[o] * sum_m codebooks[m, codes[o, g, m], i]: vector quantisation with one codebook ("vq"),
/// AQLM with several ("aqlm"; Egiazarian et al. 2024). Codes are u8 up to 8 bits and u16 above.
class AdditiveRepresentation : public Representation {
public:
    /// Allocates codes, codebooks and scales, all zero.
    AdditiveRepresentation(Backend& backend, std::int64_t rows, std::int64_t columns, const QuantizationSpec& spec);

    std::string name() const override { return books_ == 1 ? "vq" : "aqlm"; }
    std::int64_t rows() const override { return rows_; }
    std::int64_t columns() const override { return columns_; }
    std::int64_t group() const override { return group_; }
    std::int64_t bits() const override;

    void dequantize(Ops& ops, Tensor weight) const override { ops.dequantize_additive(weight, additive_); }
    void forward_row(Ops& ops, Tensor out, Tensor in, Tensor bias) const override {
        ops.linear_from_codes(out, in, additive_, bias);
    }
    std::vector<ContinuousParameter> parameters() const override;
    void backward(Ops& ops, std::span<const Tensor> gradients, Tensor d_weight) const override;
    void assign(Ops& ops, Tensor changed, Tensor target, Tensor groups, int beam) override;
    DType code_dtype() const override { return additive_.codes.dtype; }
    std::int64_t codes_per_group() const override { return books_; }
    void gather_codes(Ops& ops, Tensor saved, Tensor groups) const override {
        ops.gather_codes(saved, additive_.codes, groups);
    }
    void code_change(Ops& ops, Tensor change, Tensor saved, Tensor groups) const override {
        ops.code_change(change, additive_, saved, groups);
    }
    void restore_codes(Ops& ops, Tensor saved, Tensor groups, Tensor keep) override {
        ops.restore_codes(additive_.codes, saved, groups, keep);
    }
    void assign_different(Ops& ops, Tensor changed, Tensor target, Tensor groups) override {
        ops.assign_different(additive_, changed, target, groups);
    }
    void code_distance(Ops& ops, Tensor distance, Tensor target, Tensor groups) const override {
        ops.code_distance(distance, additive_, target, groups);
    }
    void code_product(Ops& ops, Tensor product, Tensor gradient, Tensor saved, Tensor groups) const override {
        ops.code_product(product, additive_, gradient, saved, groups);
    }
    void eager_score(Ops& ops, Tensor scores, Tensor changes, Tensor gradient, Tensor second_moment, float correction,
                     float epsilon) const override {
        ops.eager_score(scores, changes, additive_, gradient, second_moment, correction, epsilon);
    }
    void apply_changes(Ops& ops, Tensor changed, Tensor changes, Tensor scores, Tensor groups) override {
        ops.apply_changes(additive_.codes, changed, changes, scores, groups, additive_.codebooks.dim(1));
    }
    void save(Backend& backend, StoreWriter& store, const std::string& path, bool exact) const override;

    const AdditiveCodes& additive() const { return additive_; }
    /// Copies values from the host; sizes are those of the tensors.
    void upload(Backend& backend, std::span<const std::uint16_t> codes, std::span<const float> codebooks,
                std::span<const float> scales);

private:
    OwnMemory memory_;
    std::int64_t rows_;
    std::int64_t columns_;
    std::int64_t group_;
    std::int64_t books_;
    int code_bits_;
    AdditiveCodes additive_;
};

/// Throws Error naming the tensor when its columns cannot be cut into groups.
void check_columns(const std::string& name, std::int64_t columns, int group);

std::unique_ptr<Representation> load_additive(Backend& backend, const StoreReader& store, const std::string& path);

}  // namespace pvtune
