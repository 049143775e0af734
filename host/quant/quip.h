#pragma once

#include "host/quant/initialize.h"
#include "host/quant/own_memory.h"
#include "host/quant/representation.h"

namespace pvtune {

/// W = diag(left) H (scale * decode(codes)) H diag(right): E8P codes of the matrix between two Hadamard transforms
/// ("quip"; QuIP#, Tseng et al. 2024). One scale a matrix: after the transforms all rows have nearly the same norm.
/// Codes stand for the matrix X between the transforms: V steps seek them there.
class QuipRepresentation : public Representation {
public:
    /// Allocates all of it, zero. signs: whether left and right are stored in 1 bit each or in 16.
    QuipRepresentation(Backend& backend, std::int64_t rows, std::int64_t columns, int code_bits, bool signs);

    std::string name() const override { return "quip"; }
    std::int64_t rows() const override { return rows_; }
    std::int64_t columns() const override { return columns_; }
    std::int64_t group() const override { return lattice_group; }
    std::int64_t bits() const override;

    void dequantize(Ops& ops, Tensor weight) const override { ops.dequantize_lattice(weight, lattice_); }
    void forward_row(Ops& ops, Tensor out, Tensor in, Tensor bias) const override {
        ops.linear_from_lattice(out, in, lattice_, bias);
    }
    std::vector<ContinuousParameter> parameters() const override;
    void backward(Ops& ops, std::span<const Tensor> gradients, Tensor d_weight) const override;
    bool has_code_space() const override { return true; }
    void target_to_code_space(Ops& ops, Tensor target, Tensor scores, Tensor wanted, Tensor weight) const override {
        ops.lattice_target(target, scores, wanted, weight, lattice_);
    }
    void gradient_to_code_space(Ops& ops, Tensor d_weight) const override {
        ops.lattice_code_gradient(d_weight, lattice_);
    }
    /// beam has no meaning here.
    void assign(Ops& ops, Tensor changed, Tensor target, Tensor groups, int beam) override;
    DType code_dtype() const override { return DType::u8; }
    std::int64_t codes_per_group() const override { return code_bits_; }
    void gather_codes(Ops& ops, Tensor saved, Tensor groups) const override {
        ops.gather_codes(saved, lattice_.codes, groups);
    }
    void code_change(Ops& ops, Tensor change, Tensor saved, Tensor groups) const override {
        ops.lattice_change(change, lattice_, saved, groups);
    }
    void restore_codes(Ops& ops, Tensor saved, Tensor groups, Tensor keep) override {
        ops.restore_codes(lattice_.codes, saved, groups, keep);
    }
    void assign_different(Ops& ops, Tensor changed, Tensor target, Tensor groups) override {
        ops.lattice_different(lattice_, changed, target, groups);
    }
    void code_distance(Ops& ops, Tensor distance, Tensor target, Tensor groups) const override {
        ops.lattice_distance(distance, lattice_, target, groups);
    }
    void code_product(Ops& ops, Tensor product, Tensor gradient, Tensor saved, Tensor groups) const override {
        ops.lattice_product(product, lattice_, gradient, saved, groups);
    }
    /// Among 65536 codes and more the most eager change is a search of its own, which is not there.
    bool ranks_changes() const override { return false; }
    void eager_score(Ops&, Tensor, Tensor, Tensor, Tensor, float, float) const override { assert(false); }
    void apply_changes(Ops&, Tensor, Tensor, Tensor, Tensor) override { assert(false); }
    void round_as_stored(Backend& backend) override;
    void save(Backend& backend, StoreWriter& store, const std::string& path, bool exact) const override;

    const LatticeCodes& lattice() const { return lattice_; }
    /// Copies values from the host; sizes are those of the tensors.
    void upload(Backend& backend, std::span<const std::uint8_t> codes, float scale, std::span<const float> left,
                std::span<const float> right);

    static constexpr std::int64_t lattice_group = 8;

private:
    OwnMemory memory_;
    std::int64_t rows_;
    std::int64_t columns_;
    int code_bits_;  ///< a weight, so bytes a group of 8
    bool signs_;     ///< whether left and right are signs
    LatticeCodes lattice_;
};

/// Throws Error naming the tensor when its sizes cannot be cut into groups or transformed.
void check_quip_sizes(const std::string& name, std::int64_t rows, std::int64_t columns);

/// Throws Error naming `matrix` when a side is longer than what the backend transforms.
void check_quip_fits(const Backend& backend, const std::string& matrix, std::int64_t rows, std::int64_t columns);

/// codes + a scale of 32 bits + left and right.
std::int64_t quip_bits(int code_bits, std::int64_t rows, std::int64_t columns, bool signs);

std::unique_ptr<Representation> load_quip(Backend& backend, const StoreReader& store, const std::string& path);

/// Random signs from the seed, transforms, then the nearest codes (no Hessian) or LDLQ (host/quant/ldlq.h, Ops::ldlq),
/// with the scale that fits the codes best. Same bits for any number of threads.
std::unique_ptr<Representation> quantize_quip(Backend& backend, const std::string& name, std::span<const float> weight,
                                              std::int64_t rows, std::int64_t columns, const QuantizationSpec& spec,
                                              std::uint64_t seed, std::span<const float> hessian,
                                              QuantizationReport* report);

}  // namespace pvtune
