#pragma once

#include "host/model/model.h"
#include "host/tune/settings.h"

namespace pvtune {

/// What a V step remembers of a matrix between steps, and where it reports.
struct VState {
    Tensor second_moment;  ///< [rows, columns] in the compute precision
    Tensor buffer;         ///< f32 [rows, columns], the straight-through buffer; empty for `pv`
    Tensor
        score_squares;  ///< f64 [1], given by the caller: sum of squares of the scores, not finite where a score is not
    Tensor changed;     ///< u32 [1], given by the caller: groups whose codes did change
};

/// Buffers that the V steps of all matrices share, for the largest of them.
struct VScratch {
    Tensor target;          ///< f32; empty for `pv_ste`, whose buffer is the target
    Tensor scores;          ///< f32 [groups]
    Tensor selected;        ///< u32
    Tensor changed;         ///< u8
    Tensor saved;           ///< codes before the step, as bytes; from here on for the trust ratio alone
    Tensor distance;        ///< f32
    Tensor weight_squares;  ///< f64 [1]
};

VState allocate_v_state(Arena& arena, const Matrix& matrix, const TuneSettings& settings);
VScratch allocate_v_scratch(Arena& arena, const Model& model, const TuneSettings& settings);

/// Starts the straight-through buffer on the dequantised weights.
void start_buffer(Ops& ops, const Matrix& matrix, const VState& state);

/// Groups that one V step may re-assign: the share tau of them, at least one.
std::int64_t subspace_size(std::int64_t groups, double tau);

/// One V step on a quantised matrix from its gradient d_weight (f32): section 3 of the design, "One PV step".
/// matrix.weight must hold the dequantised weights that the gradient was taken at. update: 1 on the first V step.
/// Leaves state.score_squares and state.changed for a look at the end of the tuning step.
void v_step(Ops& ops, Matrix& matrix, const VState& state, const VScratch& scratch, const TuneSettings& settings,
            Tensor d_weight, double factor, std::int64_t update);

}  // namespace pvtune
