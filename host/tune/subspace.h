#pragma once

#include "host/backend/ops.h"
#include "host/model/model.h"
#include "host/tune/settings.h"

#include <span>
#include <vector>

/// Which groups a V step searches, and how many of them may change (docs/tuning.md).
namespace pvtune {

/// Bins of Ops::score_histogram.
inline constexpr std::int64_t score_bins = 1024;

/// Groups of a matrix that a V step may change: the share tau, at least one; all where there is no subspace.
std::int64_t v_budget(std::int64_t groups, const TuneSettings& settings);
/// Of all quantised matrices together.
std::int64_t model_budget(const Model& model, const TuneSettings& settings);
/// The most that any V step may change of one matrix; total: model_budget().
std::int64_t largest_budget(std::int64_t groups, std::int64_t total, const TuneSettings& settings);
/// Throws Error where a matrix of the model has no such subspace.
void check_subspace(const Model& model, const TuneSettings& settings);
/// Groups that are searched so that `budget` may change.
std::int64_t searched_groups(std::int64_t groups, std::int64_t budget, const TuneSettings& settings);

/// selected (u32 [n], no group twice) = n groups by their scores f32 [groups]; keys f32 [groups] is memory for the
/// choices by chance. update: 1 on the first V step; seed: of this V step and matrix.
void choose_groups(Ops& ops, Tensor selected, Tensor keys, Tensor scores, const TuneSettings& settings,
                   std::int64_t update, std::uint64_t seed);

/// A seed of its own for every V step and matrix of a run.
std::uint64_t seed_of(std::uint64_t run_seed, std::int64_t update, std::int64_t matrix);

/// `layer_budget`: of the `total` largest scores of the model those that lie in each matrix, by the histograms
/// [matrices, score_bins] of the last V step; within the bin where the total is reached every matrix has its share.
/// At least 1 and at most groups[i] for matrix i; the sum is `total`.
std::vector<std::int64_t> share_budget(std::span<const std::uint32_t> histograms, std::span<const std::int64_t> groups,
                                       std::int64_t total);

}  // namespace pvtune
