#include "host/eval/score.h"

#include "host/eval/forward.h"
#include "host/model/head.h"

#include <algorithm>
#include <numeric>

namespace pvtune {

namespace {

/// Tokens that go through the model together.
constexpr std::int64_t batch_tokens = 4096;

/// Requests [first, last) of the order by length.
struct Group {
    std::size_t first = 0;
    std::size_t last = 0;
    Batch batch;
    std::int64_t predicted = 0;
};

std::vector<Group> make_groups(std::span<const ScoreRequest> requests, const std::vector<std::size_t>& order) {
    std::vector<Group> groups;
    for (std::size_t first = 0; first < order.size();) {
        const std::int64_t length = requests[order[first]].length();
        const auto fit = static_cast<std::size_t>(std::max<std::int64_t>(1, batch_tokens / length));
        const std::size_t last = std::min(order.size(), first + fit);
        Group group{first, last, {static_cast<std::int64_t>(last - first), length}, 0};
        for (std::size_t i = first; i < last; ++i) group.predicted += requests[order[i]].predicted;
        groups.push_back(group);
        first = last;
    }
    return groups;
}

/// What a group uploads: tokens filled up to its length, the rows that predict and what they should.
struct Inputs {
    std::vector<std::uint32_t> ids, rows, targets;
};

Inputs inputs_of(const Group& group, std::span<const ScoreRequest> requests, const std::vector<std::size_t>& order) {
    Inputs inputs;
    for (std::size_t i = group.first; i < group.last; ++i) {
        const ScoreRequest& request = requests[order[i]];
        const std::size_t begin = inputs.ids.size();
        inputs.ids.insert(inputs.ids.end(), request.tokens.begin(), request.tokens.end() - 1);
        inputs.ids.resize(begin + static_cast<std::size_t>(group.batch.length), 0);
        for (std::int64_t t = request.length() - request.predicted; t < request.length(); ++t) {
            inputs.rows.push_back(static_cast<std::uint32_t>(begin) + static_cast<std::uint32_t>(t));
            inputs.targets.push_back(request.tokens[static_cast<std::size_t>(t) + 1]);
        }
    }
    return inputs;
}

bool is_first_of_the_largest(std::span<const float> logits, std::uint32_t target) {
    return std::max_element(logits.begin(), logits.end()) - logits.begin() == static_cast<std::ptrdiff_t>(target);
}

/// Buffers of the largest group.
struct Buffers {
    BlockActivations activations;
    Tensor hidden, ids;
    // Of a chunk of predictions.
    HeadBuffers head;
    Tensor rows, targets, gathered;
    std::vector<float> losses, logits;
};

Buffers allocate(Arena& arena, const Model& model, const std::vector<Group>& groups) {
    Batch largest{1, 1};
    std::int64_t predicted = 1;
    for (const Group& group : groups) {
        largest.length = std::max(largest.length, group.batch.tokens());
        predicted = std::max(predicted, group.predicted);
    }
    Buffers buffers;
    buffers.activations = allocate_activations(arena, model.config, model.precision, largest);
    buffers.hidden = arena.allocate("hidden state", model.precision, {largest.tokens(), model.config.width});
    buffers.ids = arena.allocate("tokens", DType::u32, {largest.tokens()});
    buffers.head = allocate_head(arena, model.config, model.precision, {1, predicted}, HeadUse::evaluate);
    const std::int64_t chunk = buffers.head.chunk;
    buffers.rows = arena.allocate("tokens", DType::u32, {chunk});
    buffers.targets = arena.allocate("tokens", DType::u32, {chunk});
    buffers.gathered = arena.allocate("hidden state", model.precision, {chunk, model.config.width});
    return buffers;
}

/// Losses of a chunk of predictions, and whether the target was the most likely token.
void predict(Backend& backend, const Model& model, Buffers& buffers, Tensor hidden, std::span<const std::uint32_t> rows,
             std::span<const std::uint32_t> targets, std::vector<char>& greedy) {
    const auto count = static_cast<std::int64_t>(rows.size());
    const Tensor device_rows = buffers.rows.rows(0, count);
    const Tensor device_targets = buffers.targets.rows(0, count);
    backend.upload(device_rows, rows.data());
    backend.upload(device_targets, targets.data());
    const Tensor gathered = buffers.gathered.rows(0, count);
    backend.ops().embedding_forward(gathered, hidden, device_rows);  // rows of the hidden state, like those of a table
    cross_entropy(backend.ops(), model, buffers.head, gathered, device_targets, {}, {}, 1.0F);
    const auto vocabulary = static_cast<std::size_t>(model.config.vocabulary);
    buffers.losses.resize(rows.size());
    buffers.logits.resize(rows.size() * vocabulary);
    backend.download(buffers.losses.data(), buffers.head.losses.rows(0, count));
    backend.download(buffers.logits.data(), buffers.head.logits.rows(0, count));
    greedy.resize(rows.size());
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < rows.size(); ++i) {
        greedy[i] = is_first_of_the_largest(std::span(buffers.logits).subspan(i * vocabulary, vocabulary), targets[i]);
    }
}

}  // namespace

std::vector<Score> score(Backend& backend, Model& model, std::span<const ScoreRequest> requests,
                         const std::function<void(std::int64_t, std::int64_t)>& progress) {
    std::vector<std::size_t> order(requests.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return requests[a].length() > requests[b].length(); });
    const std::vector<Group> groups = make_groups(requests, order);
    Buffers buffers = allocate(backend.arena(), model, groups);
    if (backend.arena().planning()) return {};

    std::vector<Score> scores(requests.size(), {0, true});
    std::vector<char> greedy;
    std::int64_t tokens_done = 0;
    for (const Group& group : groups) {
        const Inputs inputs = inputs_of(group, requests, order);
        const Tensor ids = buffers.ids.rows(0, group.batch.tokens());
        const Tensor hidden = buffers.hidden.rows(0, group.batch.tokens());
        backend.upload(ids, inputs.ids.data());
        forward(backend, model, hidden, ids, buffers.activations, group.batch);

        std::size_t request = group.first;
        std::int64_t left = requests[order[request]].predicted;
        const auto chunk = static_cast<std::size_t>(buffers.head.chunk);
        for (std::size_t first = 0; first < inputs.rows.size(); first += chunk) {
            const std::size_t count = std::min(chunk, inputs.rows.size() - first);
            predict(backend, model, buffers, hidden, std::span(inputs.rows).subspan(first, count),
                    std::span(inputs.targets).subspan(first, count), greedy);
            for (std::size_t i = 0; i < count; ++i) {
                if (left == 0) left = requests[order[++request]].predicted;
                --left;
                Score& score = scores[order[request]];
                score.log_likelihood -= static_cast<double>(buffers.losses[i]);
                score.greedy = score.greedy && greedy[i] != 0;
            }
        }
        for (std::size_t i = group.first; i < group.last; ++i) tokens_done += requests[order[i]].length();
        progress(tokens_done, static_cast<std::int64_t>(group.last));
    }
    return scores;
}

}  // namespace pvtune
