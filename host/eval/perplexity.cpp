#include "host/eval/perplexity.h"

#include "host/eval/forward.h"
#include "host/model/head.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace pvtune {

namespace {
/// Tokens that go through the model together.
constexpr std::int64_t batch_tokens = 4096;
}  // namespace

PerplexityResult perplexity(Backend& backend, Model& model, std::span<const std::uint32_t> tokens, std::int64_t length,
                            std::int64_t windows, const std::function<void(std::int64_t, double)>& progress) {
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t whole = static_cast<std::int64_t>(tokens.size()) / length;
    const std::int64_t count = windows > 0 ? std::min(windows, whole) : whole;
    const std::int64_t per_batch = std::min(count, std::max<std::int64_t>(1, batch_tokens / length));
    const Batch largest{per_batch, length};
    Arena& arena = backend.arena();
    const BlockActivations activations = allocate_activations(arena, model.config, model.precision, largest);
    const HeadBuffers head = allocate_head(arena, model.config, model.precision, largest, HeadUse::evaluate);
    const Tensor all_hidden = arena.allocate("hidden state", model.precision, {largest.tokens(), model.config.width});
    const Tensor all_ids = arena.allocate("tokens", DType::u32, {largest.tokens()});
    const Tensor all_targets = arena.allocate("tokens", DType::u32, {largest.tokens()});
    if (arena.planning()) return {};

    std::vector<std::uint32_t> targets;
    std::vector<float> losses;
    PerplexityResult result;
    double sum = 0;
    for (std::int64_t first = 0; first < count; first += per_batch) {
        const Batch batch{std::min(per_batch, count - first), length};
        const auto ids =
            tokens.subspan(static_cast<std::size_t>(first * length), static_cast<std::size_t>(batch.tokens()));
        // The last position of a window predicts nothing; it is given its own token and left out of the mean.
        targets.assign(ids.begin() + 1, ids.end());
        targets.push_back(ids.back());
        const Tensor device_ids = all_ids.rows(0, batch.tokens());
        const Tensor device_targets = all_targets.rows(0, batch.tokens());
        backend.upload(device_ids, ids.data());
        backend.upload(device_targets, targets.data());

        const Tensor hidden = all_hidden.rows(0, batch.tokens());
        forward(backend, model, hidden, device_ids, activations, batch);
        cross_entropy(backend.ops(), model, head, hidden, device_targets, {}, {}, 1.0F);
        losses.resize(static_cast<std::size_t>(batch.tokens()));
        backend.download(losses.data(), head.losses.rows(0, batch.tokens()));
        for (std::int64_t t = 0; t < batch.tokens(); ++t) {
            if (t % length != length - 1) sum += static_cast<double>(losses[static_cast<std::size_t>(t)]);
        }
        result.windows += batch.sequences;
        result.predictions += batch.sequences * (length - 1);
        result.nll = sum / static_cast<double>(result.predictions);
        progress(result.windows, result.nll);
    }
    result.perplexity = std::exp(result.nll);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
}

}  // namespace pvtune
