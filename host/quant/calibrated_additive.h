#pragma once

#include "host/quant/initialize.h"

namespace pvtune {

/// The work that additive codes under a Hessian put in.
struct CalibratedSettings {
    int rounds = 3;            ///< of codes, then codebooks and scales
    int beam = 2;              ///< of the search for the codes of a group
    int fit_iterations = 4;    ///< conjugate gradient steps of a round's codebooks
    double tolerance = 2e-3;   ///< rounds end when one gains less than this share of the objective
    double damping = 1e-2;     ///< of the mean diagonal, added to the diagonal of the Hessian
    std::int64_t block = 128;  ///< columns whose groups see one another's changes at once
    /// Of the data-free codes that everything starts from: the rounds that follow make up for those that it leaves out.
    /// On SmolLM2 a second round on the sample and a beam of 2 cost 40 % more than a round and take 1 % off the
    /// objective.
    InitializeSettings initial = {.sample_rounds = 1, .rounds = 0, .rounds_of_one = 2, .beam = 1};
};

/// Additive codes for weight [rows, columns] with a small tr((W - What) H (W - What)^T), H = hessian f32 [columns,
/// columns], symmetric: AQLM (Egiazarian et al. 2024) with the running gradient (W - What) H kept up to date. Rounds of
/// 1. codes, coordinate by coordinate: all rows' group g at once. With G = (W - What) H and L L^T = H_gg, the best
///    codes for group g beside all others are the nearest to (G_g + What_g H_gg) L^-T in codebooks times L: an ordinary
///    beam search. G's columns of the same block follow at once, the others by one product a block.
/// 2. codebooks: least squares under H by conjugate gradients, one product with H a step; then the scale of each row
///    in closed form.
/// Stops early by the tolerance. What grows with the matrix runs on the backend's device. Errors and their messages
/// are those of encode_additive().
EncodedMatrix encode_additive_calibrated(Backend& backend, const std::string& name, std::span<const float> weight,
                                         std::int64_t rows, std::int64_t columns, const QuantizationSpec& spec,
                                         std::uint64_t seed, std::span<const float> hessian,
                                         QuantizationReport* report = nullptr, const CalibratedSettings& settings = {});

}  // namespace pvtune
