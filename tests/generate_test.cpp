// Token by token with a key-value cache must say what the whole sequence at once says; sampling by hand.

#include "host/eval/generate.h"

#include "host/model/embedding.h"
#include "host/quant/additive.h"
#include "io/error.h"
#include "tests/family_configs.h"
#include "tests/files.h"
#include "tests/tensors.h"

#include <gtest/gtest.h>
#include <cmath>
#include <random>

namespace pvtune {
namespace {

using testing::TemporaryFolder;

/// A weights file of the config with values that differ from tensor to tensor.
void write_model(const std::string& path, const ModelConfig& config) {
    StoreWriter store(path, "weights", "test");
    store.set_text("/", "config", config.json);
    std::uint32_t state = 1;
    for (const TensorSpec& spec : tensor_specs(config)) {
        std::int64_t count = 1;
        for (const auto extent : spec.shape) count *= extent;
        std::vector<float> values(static_cast<std::size_t>(count));
        for (float& value : values) {
            state = state * 1664525U + 1013904223U;
            value =
                (static_cast<float>(state >> 8) / 16777216.0F - 0.5F) * 0.6F + (spec.shape.size() == 1 ? 1.0F : 0.0F);
        }
        store.write("/tensors/" + spec.name, DType::f32, spec.shape, values.data());
    }
    store.commit();
}

/// Logits of all positions of one sequence, by the full forward pass.
std::vector<float> full_logits(Backend& backend, Model& model, const std::vector<std::uint32_t>& tokens) {
    const Batch batch{1, static_cast<std::int64_t>(tokens.size())};
    Arena& arena = backend.arena();
    const auto activations = allocate_activations(arena, model.config, model.precision, batch);
    const auto head = allocate_head(arena, model.config, model.precision, batch, HeadUse::evaluate);
    const Tensor hidden = arena.allocate("hidden", model.precision, {batch.tokens(), model.config.width});
    const Tensor ids = arena.allocate("ids", DType::u32, {batch.tokens()});
    const Tensor out = arena.allocate("logits", DType::f32, {batch.tokens(), model.config.vocabulary});
    backend.upload(ids, tokens.data());
    embed(backend.ops(), model, hidden, ids);
    for (const Block& block : model.blocks)
        block_forward(backend.ops(), model, block, hidden, hidden, activations, batch);
    logits(backend.ops(), model, head, out, hidden);
    std::vector<float> values(static_cast<std::size_t>(out.elements()));
    backend.download(values.data(), out);
    return values;
}

/// Largest difference relative to the largest logit.
double disagreement(const std::string& json, DType precision) {
    const TemporaryFolder folder;
    const ModelConfig config = parse_config(json, "config.json");
    write_model(folder.file("model.h5"), config);
    const StoreReader store(folder.file("model.h5"), "weights");
    const auto backend = make_cpu_backend({2, false});
    Model model = load_model(*backend, store, precision, 32, Residency::all);
    std::vector<std::uint32_t> tokens;
    for (std::uint32_t i = 0; i < 23; ++i)
        tokens.push_back((i * 29 + 7) % static_cast<std::uint32_t>(config.vocabulary));
    const std::vector<float> wanted = full_logits(*backend, model, tokens);

    Decoder decoder(*backend, model, static_cast<std::int64_t>(tokens.size()));
    std::vector<float> row(static_cast<std::size_t>(config.vocabulary));
    double largest = 0;
    double difference = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
        backend->download(row.data(), decoder.step(tokens[t]));
        for (std::size_t i = 0; i < row.size(); ++i) {
            const double expected = wanted[t * row.size() + i];
            largest = std::max(largest, std::abs(expected));
            difference = std::max(difference, std::abs(static_cast<double>(row[i]) - expected));
        }
    }
    return difference / largest;
}

/// The model of write_model() with every matrix of its blocks under the spec, codes and codebooks at random.
void write_quantized_model(const std::string& path, const ModelConfig& config, const QuantizationSpec& spec) {
    write_model(path + ".dense", config);
    const StoreReader dense(path + ".dense", "weights");
    StoreWriter store(path, "weights", "test");
    store.set_text("/", "config", config.json);
    const auto backend = make_cpu_backend({.threads = 1});
    std::mt19937 engine(7);
    for (const TensorSpec& tensor : tensor_specs(config)) {
        const std::string name = "/tensors/" + tensor.name;
        if (!tensor.block_matrix) {
            store.write(name, DType::f32, tensor.shape, read_dense(dense, tensor.name, tensor.shape).data());
            continue;
        }
        AdditiveRepresentation matrix(*backend, tensor.shape[0], tensor.shape[1], spec);
        std::vector<std::uint16_t> codes(static_cast<std::size_t>(matrix.groups() * spec.codebooks));
        for (auto& code : codes) code = static_cast<std::uint16_t>(engine() % (1U << spec.code_bits));
        std::vector<float> codebooks(static_cast<std::size_t>(spec.codebooks << spec.code_bits) *
                                     static_cast<std::size_t>(spec.group));
        for (float& value : codebooks) value = static_cast<float>(engine() >> 8) * 0x1p-25F - 0.25F;
        std::vector<float> scales(static_cast<std::size_t>(tensor.shape[0]));
        for (float& value : scales) value = static_cast<float>(engine() >> 8) * 0x1p-24F + 0.5F;
        matrix.upload(*backend, codes, codebooks, scales);
        matrix.save(*backend, store, name, true);
    }
    store.commit();
}

/// Feeds a greedy text from codes, and the same tokens to the model with dequantised weights; compares logits.
void expect_codes_agree(const std::string& json, const QuantizationSpec& spec, DType precision, double tolerance) {
    const TemporaryFolder folder;
    const ModelConfig config = parse_config(json, "config.json");
    write_quantized_model(folder.file("q.h5"), config, spec);
    const StoreReader store(folder.file("q.h5"), "weights");
    constexpr std::int64_t length = 24;
    const auto backend = make_cpu_backend({.threads = 2});
    const Model from_codes = load_model(*backend, store, precision, length, Residency::codes);
    const Model dequantized = load_model(*backend, store, precision, length, Residency::all);
    for (const Matrix& matrix : from_codes.blocks[0].matrices) EXPECT_TRUE(matrix.weight.empty());
    Decoder decoder(*backend, from_codes, length);
    Decoder reference(*backend, dequantized, length);
    std::vector<float> got(static_cast<std::size_t>(config.vocabulary));
    std::vector<float> expected(got.size());
    std::uint32_t token = 7;
    for (std::int64_t t = 0; t < length; ++t) {
        backend->download(got.data(), decoder.step(token));
        backend->download(expected.data(), reference.step(token));
        EXPECT_LT(testing::relative_error({got.begin(), got.end()}, {expected.begin(), expected.end()}), tolerance);
        token = sample(got, {}, 0);
        if (precision == DType::f32) {
            EXPECT_EQ(token, sample(expected, {}, 0)) << "token " << t;
        }
    }
}

std::string config_json(const std::string& rest) {
    return R"({"model_type": "llama", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40,
               "num_hidden_layers": 3, "num_attention_heads": 6, "max_position_embeddings": 64)" +
           rest + "}";
}

// Both sum in f32 in different orders.
constexpr double f32_tolerance = 1e-4;

TEST(Generate, CacheAgreesWithFullPassGroupedQueries) {
    EXPECT_LT(disagreement(config_json(R"(, "num_key_value_heads": 2, "tie_word_embeddings": true)"), DType::f32),
              f32_tolerance);
}

TEST(Generate, CacheAgreesWithFullPassBiasesUntied) {
    EXPECT_LT(disagreement(config_json(R"(, "num_key_value_heads": 6, "attention_bias": true, "mlp_bias": true)"),
                           DType::f32),
              f32_tolerance);
}

TEST(Generate, CacheAgreesWithFullPassSlidingWindow) {
    std::string json = config_json(R"(, "num_key_value_heads": 3, "sliding_window": 5)");
    json.replace(json.find("llama"), 5, "mistral");
    EXPECT_LT(disagreement(json, DType::f32), f32_tolerance);
}

TEST(Generate, CacheAgreesWithFullPassInBf16) {
    // bf16 keeps 8 bits: each of some 20 roundings on the way differs by up to 2^-8 of its value.
    EXPECT_LT(disagreement(config_json(R"(, "num_key_value_heads": 2)"), DType::bf16), 0.05);
}

TEST(Generate, EveryFamilyAgreesWithItsFullPassAndFromCodes) {
    for (const testing::FamilyConfig& family : testing::family_configs) {
        SCOPED_TRACE(family.name);
        EXPECT_LT(disagreement(family.json, DType::f32), f32_tolerance);
        EXPECT_LT(disagreement(family.json, DType::bf16), 0.05);
        expect_codes_agree(family.json, {"aqlm", 2, 8, 4}, DType::f32, f32_tolerance);
    }
}

TEST(Generate, CodesGiveTheTextOfTheDequantizedWeights) {
    const std::string biased = config_json(R"(, "num_key_value_heads": 2, "attention_bias": true, "mlp_bias": true)");
    expect_codes_agree(biased, {"aqlm", 2, 8, 8}, DType::f32, f32_tolerance);
    expect_codes_agree(config_json(R"(, "num_key_value_heads": 3)"), {"vq", 1, 10, 4}, DType::f32, f32_tolerance);
}

TEST(Generate, CodesAgreeWithTheDequantizedWeightsInBf16) {
    // Dequantised weights are rounded to bf16, codebooks are not; all else as between cache and full pass.
    expect_codes_agree(config_json(R"(, "num_key_value_heads": 2)"), {"aqlm", 2, 8, 8}, DType::bf16, 0.05);
}

TEST(Sample, GreedyTakesTheFirstOfTheLargest) {
    const std::vector<float> logits{1, 3, 3, 2};
    EXPECT_EQ(sample(logits, {}, 0.99), 1U);
}

TEST(Sample, DrawsByProbabilityAndKeepsToTopP) {
    const std::vector<float> logits{std::log(0.2F), std::log(0.5F), std::log(0.3F)};
    EXPECT_EQ(sample(logits, {1, 1}, 0.49), 1U);  // likeliest first: 0.5, 0.3, 0.2
    EXPECT_EQ(sample(logits, {1, 1}, 0.51), 2U);
    EXPECT_EQ(sample(logits, {1, 1}, 0.81), 0U);
    EXPECT_EQ(sample(logits, {1, 0.7}, 0.99), 2U);
    EXPECT_EQ(sample(logits, {1, 0}, 0.99), 1U);
    EXPECT_THROW(sample(std::vector<float>{0, NAN}, {}, 0), Error);
}

}  // namespace
}  // namespace pvtune
