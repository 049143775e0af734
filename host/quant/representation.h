#pragma once

#include "host/backend/backend.h"
#include "io/store.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace pvtune {

/// A continuous parameter of a quantised matrix: what a P step moves. value is f32, in memory of the matrix.
struct ContinuousParameter {
    std::string name;  ///< "codebooks", "scales", "zeros"; of quip "scale", "left", "right"
    Tensor value;
};

/// A quantised matrix W [rows, columns], cut into groups of `group` weights along a row, the unit that a V step moves;
/// group j of row o has the flat index o * (columns / group) + j. PV-Tuning is written against this interface alone.
class Representation {
public:
    virtual ~Representation() = default;

    virtual std::string name() const = 0;  ///< "vq", "aqlm", "scalar", "quip"
    virtual std::int64_t rows() const = 0;
    virtual std::int64_t columns() const = 0;
    virtual std::int64_t group() const = 0;
    std::int64_t groups() const { return rows() * (columns() / group()); }

    /// Bits of the matrix as stored: codes and continuous parameters, signs of quip too.
    virtual std::int64_t bits() const = 0;

    /// weight [rows, columns] f32 or bf16.
    virtual void dequantize(Ops& ops, Tensor weight) const = 0;
    /// out [1, rows] = in [1, columns] * W^T + bias [rows] f32 (may be empty), without a dequantised W.
    virtual void forward_row(Ops& ops, Tensor out, Tensor in, Tensor bias) const = 0;

    virtual std::vector<ContinuousParameter> parameters() const = 0;
    /// Sets gradients[i] (f32, the shape of parameters()[i].value) from d_weight f32 [rows, columns].
    virtual void backward(Ops& ops, std::span<const Tensor> gradients, Tensor d_weight) const = 0;

    /// Codes stand for groups of a matrix [rows, columns] that is W itself or (quip) one that W is a linear transform
    /// of: "code space", where new codes are sought. Moments and targets of V steps are of W: behind a transform a
    /// direction in which the loss is steep lies in all groups of a row, and updates of a size for every weight add up
    /// in it.
    virtual bool has_code_space() const { return false; }
    /// Where it has: target f32 and scores f32 [groups] in code space from a wanted W f32 (may be target's memory) and
    /// W itself (Ops::lattice_target); and d_weight, in place, the gradient there.
    virtual void target_to_code_space(Ops&, Tensor /*target*/, Tensor /*scores*/, Tensor /*wanted*/,
                                      Tensor /*weight*/) const {}
    virtual void gradient_to_code_space(Ops&, Tensor /*d_weight*/) const {}

    /// New codes for the chosen groups, the nearest to target f32 [rows, columns] in code space; groups u32 [n];
    /// changed u8 [n].
    virtual void assign(Ops& ops, Tensor changed, Tensor target, Tensor groups, int beam) = 0;

    /// For taking V steps back: the codes of the chosen groups (saved: code_dtype() [n, codes_per_group()]), how far
    /// each group has moved from them (change f32 [n], squared), and putting them back where keep (u8 [n]) is 0.
    virtual DType code_dtype() const = 0;
    virtual std::int64_t codes_per_group() const = 0;
    virtual void gather_codes(Ops& ops, Tensor saved, Tensor groups) const = 0;
    virtual void code_change(Ops& ops, Tensor change, Tensor saved, Tensor groups) const = 0;
    virtual void restore_codes(Ops& ops, Tensor saved, Tensor groups, Tensor keep) = 0;

    /// For every groups[i] whose changed[i] (u8) is 0: the nearest codes to target that are not the present ones (of
    /// several codebooks: among the changes of one code); changed[i] = 1.
    virtual void assign_different(Ops& ops, Tensor changed, Tensor target, Tensor groups) = 0;
    /// distance[i] (f32) = |target - W|^2 of group groups[i], in code space, as assign measures it.
    virtual void code_distance(Ops& ops, Tensor distance, Tensor target, Tensor groups) const = 0;
    /// product[i] (f32) = <gradient, W now - W with saved[i]> of group groups[i]; gradient f32 [rows, columns], both in
    /// code space.
    virtual void code_product(Ops& ops, Tensor product, Tensor gradient, Tensor saved, Tensor groups) const = 0;
    /// Whether eager_score() is there.
    virtual bool ranks_changes() const { return true; }
    /// The most eager change of every group (Ops::eager_score): scores f32 [groups], changes u32 [groups] in the
    /// representation's own numbers; and the changes of chosen groups made where their score is above 0 (changed u8).
    virtual void eager_score(Ops& ops, Tensor scores, Tensor changes, Tensor gradient, Tensor second_moment,
                             float correction, float epsilon) const = 0;
    virtual void apply_changes(Ops& ops, Tensor changed, Tensor changes, Tensor scores, Tensor groups) = 0;

    /// Rounds the continuous parameters to what save() keeps of them, so that a matrix that is read back is this one.
    virtual void round_as_stored(Backend& backend);
    /// Writes the group `path` ("/tensors/<name>") with its attributes and datasets. exact keeps the continuous
    /// parameters in f32 (checkpoints); otherwise they are stored in 16 bits, the precision that bits() counts.
    virtual void save(Backend& backend, StoreWriter& store, const std::string& path, bool exact) const = 0;
};

/// What `quantize` was asked for.
struct QuantizationSpec {
    std::string representation = "aqlm";
    int codebooks = 2;  ///< scalar, quip: 1
    int code_bits = 8;  ///< quip: bits a weight
    int group = 8;      ///< weights a code stands for; scalar: columns of a grid, 0 for the whole row
};

/// Throws Error when the spec is impossible, naming the flag.
void check_spec(const QuantizationSpec& spec);

/// Bits of a rows x columns matrix under the spec, before there is one (plans, `--dry-run`).
std::int64_t bits_of(const QuantizationSpec& spec, std::int64_t rows, std::int64_t columns);

/// Reads a matrix that save() wrote. Codes out of range, wrong shapes and non-finite values are an Error.
std::unique_ptr<Representation> load_representation(Backend& backend, const StoreReader& store,
                                                    const std::string& path);

}  // namespace pvtune
