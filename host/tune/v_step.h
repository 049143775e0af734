#pragma once

#include "host/model/model.h"
#include "host/tune/settings.h"

namespace pvtune {

/// What a V step remembers of a matrix between steps.
struct VState {
    Tensor second_moment;  ///< [rows, columns] in the compute precision
    Tensor buffer;         ///< f32 [rows, columns], the straight-through buffer; empty for `pv`
};

/// Buffers that the V steps of all matrices share, for the largest of them.
struct VScratch {
    Tensor target;    ///< f32; empty for `pv_ste`, whose buffer is the target
    Tensor scores;    ///< f32 [groups]
    Tensor selected;  ///< u32
    Tensor changed;   ///< u8
    Tensor saved;     ///< codes before the step, as bytes; these two for the trust ratio alone
    Tensor distance;  ///< f32
};

VState allocate_v_state(Arena& arena, const Matrix& matrix, const TuneSettings& settings);
VScratch allocate_v_scratch(Arena& arena, const Model& model, const TuneSettings& settings);

/// Starts the straight-through buffer on the dequantised weights.
void start_buffer(Ops& ops, const Matrix& matrix, const VState& state);

struct VReport {
    std::int64_t groups = 0;    ///< of the matrix
    std::int64_t selected = 0;  ///< re-assigned at most
    std::int64_t changed = 0;   ///< whose codes did change
};

/// One V step on a quantised matrix from its gradient d_weight (f32): section 3 of the design, "One PV step".
/// matrix.weight must hold the dequantised weights that the gradient was taken at. update: 1 on the first V step.
VReport v_step(Backend& backend, Matrix& matrix, const VState& state, const VScratch& scratch,
               const TuneSettings& settings, Tensor d_weight, double factor, std::int64_t update);

}  // namespace pvtune
