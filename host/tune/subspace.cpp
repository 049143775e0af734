#include "host/tune/subspace.h"

#include "host/quant/random.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pvtune {

std::int64_t v_budget(std::int64_t groups, const TuneSettings& settings) {
    if (!settings.has_subspace()) return groups;
    const auto share = static_cast<std::int64_t>(std::ceil(settings.tau * static_cast<double>(groups)));
    return std::clamp<std::int64_t>(share, 1, groups);
}

void check_subspace(const Model& model, const TuneSettings& settings) {
    if (settings.subspace != Subspace::eager || settings.strategy != Strategy::pv) return;
    for (const Block& block : model.blocks) {
        for (const Matrix& matrix : block.matrices) {
            if (!matrix.quantized || matrix.quantized->ranks_changes()) continue;
            throw Error("--subspace eager: " + matrix.name + " is of the representation " + matrix.quantized->name() +
                        ", whose changes it cannot rank; use --subspace topk");
        }
    }
}

std::int64_t model_budget(const Model& model, const TuneSettings& settings) {
    std::int64_t total = 0;
    for (const Block& block : model.blocks) {
        for (const Matrix& matrix : block.matrices) {
            if (matrix.quantized) total += v_budget(matrix.quantized->groups(), settings);
        }
    }
    return total;
}

std::int64_t largest_budget(std::int64_t groups, std::int64_t total, const TuneSettings& settings) {
    return settings.subspace == Subspace::layer_budget ? std::min(groups, total) : v_budget(groups, settings);
}

std::int64_t searched_groups(std::int64_t groups, std::int64_t budget, const TuneSettings& settings) {
    return settings.candidates > groups / budget ? groups : settings.candidates * budget;
}

std::uint64_t seed_of(std::uint64_t run_seed, std::int64_t update, std::int64_t matrix) {
    const std::uint64_t of_update = Random(run_seed).next() + static_cast<std::uint64_t>(update);
    return Random(Random(of_update).next() + static_cast<std::uint64_t>(matrix)).next();
}

void choose_groups(Ops& ops, Tensor selected, Tensor keys, Tensor scores, const TuneSettings& settings,
                   std::int64_t update, std::uint64_t seed) {
    const std::int64_t groups = scores.elements();
    const std::int64_t count = selected.elements();
    if (!settings.has_subspace()) return ops.round_robin(selected, 0, groups);
    switch (settings.subspace) {
        case Subspace::topk:
        case Subspace::layer_budget:
        case Subspace::eager:
            return ops.select_largest(selected, scores);
        case Subspace::sample:
        case Subspace::random:
            ops.sampling_keys(keys, scores,
                              settings.subspace == Subspace::random ? 0 : 1 / settings.subspace_temperature, seed);
            return ops.select_largest(selected, keys);
        case Subspace::block:
            return ops.round_robin(selected, (update - 1) * count % groups, groups);
    }
}

std::vector<std::int64_t> share_budget(std::span<const std::uint32_t> histograms, std::span<const std::int64_t> groups,
                                       std::int64_t total) {
    const auto at = [&](std::size_t matrix, std::int64_t bin) {
        return static_cast<std::int64_t>(histograms[matrix * score_bins + static_cast<std::size_t>(bin)]);
    };
    std::vector<double> claims(groups.size());
    std::int64_t missing = total;
    for (std::int64_t bin = score_bins - 1; bin >= 0 && missing > 0; --bin) {
        std::int64_t in_bin = 0;
        for (std::size_t i = 0; i < groups.size(); ++i) in_bin += at(i, bin);
        if (in_bin == 0) continue;
        const double share = std::min(1.0, static_cast<double>(missing) / static_cast<double>(in_bin));
        for (std::size_t i = 0; i < groups.size(); ++i) claims[i] += share * static_cast<double>(at(i, bin));
        missing -= in_bin;
    }
    std::vector<std::int64_t> budgets(groups.size());
    for (std::size_t i = 0; i < groups.size(); ++i) {
        budgets[i] = std::clamp<std::int64_t>(static_cast<std::int64_t>(claims[i]), 1, groups[i]);
    }
    // What rounding left over, or took too much, one by one: to or from the matrix that is farthest from its claim.
    std::int64_t rest = total - std::accumulate(budgets.begin(), budgets.end(), std::int64_t{0});
    while (rest != 0) {
        const std::int64_t sign = rest > 0 ? 1 : -1;
        std::size_t farthest = groups.size();
        double distance = 0;
        for (std::size_t i = 0; i < groups.size(); ++i) {
            if (sign > 0 ? budgets[i] == groups[i] : budgets[i] == 1) continue;
            const double own = static_cast<double>(sign) * (claims[i] - static_cast<double>(budgets[i]));
            if (farthest < groups.size() && own <= distance) continue;
            farthest = i;
            distance = own;
        }
        if (farthest == groups.size()) break;  // every group of the model, or one of every matrix
        budgets[farthest] += sign;
        rest -= sign;
    }
    return budgets;
}

}  // namespace pvtune
