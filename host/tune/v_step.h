#pragma once

#include "host/model/model.h"
#include "host/tune/settings.h"

namespace pvtune {

/// What a V step remembers of a matrix between steps, and where it reports. The slots of the step record are the
/// caller's.
struct VState {
    Tensor second_moment;  ///< [rows, columns] in the compute precision, or f32 [moments shared by several weights]
    Tensor buffer;         ///< f32 or bf16 [rows, columns], straight-through; empty where the strategy has none
    Tensor mean_gradient;  ///< f32 [rows, columns], over the steps since the last V step; empty with one a step

    Tensor history;      ///< for --measure-v: what every group had before its last change,
    Tensor before, now;  ///< and the codes before and after the V step

    Tensor score_squares;  ///< f64 [1]: sum of squares of the scores, not finite where a score is not
    Tensor predicted;      ///< f64 [1]: sum of <gradient, change> over the groups that changed
    Tensor changed;        ///< u32 [1]: groups whose codes did change
    Tensor returned;       ///< u32 [1], for --measure-v: of these, back to what they had before their last change
    Tensor histogram;      ///< u32 [score_bins], for layer budgets
};

/// Buffers that the V steps of all matrices share, for the largest of them; empty where the settings need none.
struct VScratch {
    Tensor target;                  ///< f32; a straight-through buffer in f32 is its own target, but for code spaces
    Tensor scores, keys;            ///< f32 [groups]
    Tensor changes;                 ///< u32 [groups]
    Tensor everyone;                ///< u32 [groups]
    Tensor flags;                   ///< u8 [groups]
    Tensor selected;                ///< u32 [searched]
    Tensor changed;                 ///< u8 [searched]
    Tensor saved, nearest;          ///< codes before the step, and the nearest ones, as bytes
    Tensor distance, old_distance;  ///< f32 [searched]
    Tensor weight_squares;          ///< f64 [1]
};

VState allocate_v_state(Arena& arena, const Matrix& matrix, const TuneSettings& settings);
VScratch allocate_v_scratch(Arena& arena, const Model& model, const TuneSettings& settings);

/// Before the first step: the straight-through buffer starts on what the codes stand for, the history on the codes.
void start_v_state(Ops& ops, const Matrix& matrix, const VState& state, const VScratch& scratch);

/// What is particular to one V step of one matrix.
struct VTurn {
    Tensor gradient;          ///< f32 [rows, columns]
    double factor = 1;        ///< on the rate
    std::int64_t update = 1;  ///< 1 on the first V step
    std::uint64_t seed = 0;   ///< of this V step and matrix
    std::int64_t budget = 1;  ///< groups that may change
};

/// One V step on a quantised matrix, by any strategy of docs/tuning.md.
/// matrix.weight must hold the dequantised weights that the gradient was taken at; where the representation has a code
/// space the gradient is left in it.
/// Leaves what `state` reports for a look at the end of the tuning step.
void v_step(Ops& ops, Matrix& matrix, const VState& state, const VScratch& scratch, const TuneSettings& settings,
            const VTurn& turn);

}  // namespace pvtune
