// Scores of many requests at once against one token after another through the decoder, which knows no batches.

#include "host/eval/score.h"

#include "host/eval/generate.h"
#include "tests/files.h"
#include "tests/model_store.h"

#include <gtest/gtest.h>
#include <cmath>
#include <random>

namespace pvtune {
namespace {

constexpr const char* config_json =
    R"({"model_type": "mistral", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 9})";

Score one_by_one(Backend& backend, const Model& model, const ScoreRequest& request) {
    Decoder decoder(backend, model, request.length());
    std::vector<float> logits(static_cast<std::size_t>(model.config.vocabulary));
    Score score{0, true};
    for (std::int64_t t = 0; t < request.length(); ++t) {
        backend.download(logits.data(), decoder.step(request.tokens[static_cast<std::size_t>(t)]));
        if (t < request.length() - request.predicted) continue;
        const std::uint32_t target = request.tokens[static_cast<std::size_t>(t) + 1];
        double sum = 0;
        for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
        score.log_likelihood += static_cast<double>(logits[target]) - std::log(sum);
        score.greedy = score.greedy && sample(logits, {}, 0) == target;
    }
    return score;
}

std::vector<ScoreRequest> random_requests(std::size_t count) {
    std::mt19937 engine(3);
    std::vector<ScoreRequest> requests(count);
    for (ScoreRequest& request : requests) {
        request.tokens.resize(2 + engine() % 40);
        for (auto& token : request.tokens) token = static_cast<std::uint32_t>(engine() % 61);
        request.predicted = 1 + static_cast<std::int64_t>(engine() % (request.tokens.size() - 1));
    }
    return requests;
}

TEST(Score, ManyAtOnceAreAsOneByOne) {
    const testing::TemporaryFolder folder;
    testing::write_weights_store(folder.file("model.h5"), config_json, [](const TensorSpec& spec) {
        std::int64_t count = 1;
        for (const auto extent : spec.shape) count *= extent;
        testing::Uniform uniform(static_cast<std::uint32_t>(spec.name.size()), 0.5);
        std::vector<float> values(static_cast<std::size_t>(count));
        for (float& value : values) value = static_cast<float>(uniform() + (spec.shape.size() == 1 ? 1 : 0));
        return values;
    });
    const StoreReader store(folder.file("model.h5"), "weights");
    const auto backend = make_cpu_backend({.threads = 2});
    Model model = load_model(*backend, store, DType::f32, 64, Residency::all);
    // Several batches, more predictions in one than the head takes at once, and continuations that are greedy.
    std::vector<ScoreRequest> requests = random_requests(250);
    for (ScoreRequest& request : std::span(requests).first(40)) {
        Decoder decoder(*backend, model, request.length());
        std::vector<float> logits(61);
        for (std::int64_t t = 0; t < request.length(); ++t) {
            backend->download(logits.data(), decoder.step(request.tokens[static_cast<std::size_t>(t)]));
        }
        request.tokens.back() = sample(logits, {}, 0);
        request.predicted = 1;
    }
    std::int64_t tokens = 0;
    for (const ScoreRequest& request : requests) tokens += request.length();
    std::int64_t last_tokens = 0;
    std::int64_t last_requests = 0;
    int batches = 0;
    const std::vector<Score> scores =
        score(*backend, model, requests, [&](std::int64_t tokens_done, std::int64_t requests_done) {
            last_tokens = tokens_done;
            last_requests = requests_done;
            ++batches;
        });
    EXPECT_GT(batches, 1);
    EXPECT_EQ(last_tokens, tokens);
    EXPECT_EQ(last_requests, 250);
    ASSERT_EQ(scores.size(), requests.size());
    std::size_t greedy = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        const Score expected = one_by_one(*backend, model, requests[i]);
        // Both sum in f32 in different orders.
        EXPECT_NEAR(scores[i].log_likelihood, expected.log_likelihood, 1e-5 * std::abs(expected.log_likelihood)) << i;
        EXPECT_EQ(scores[i].greedy, expected.greedy) << i;
        greedy += expected.greedy;
    }
    EXPECT_GE(greedy, 40U);
    EXPECT_LT(greedy, 200U);
}

}  // namespace
}  // namespace pvtune
