#include "host/backend/cpu/bf16_blocks.h"
#include "tests/files.h"
#include "tests/model_store.h"

namespace pvtune {
namespace {

using namespace pvtune::testing;

constexpr const char* config_json = R"({"model_type": "llama", "vocab_size": 71, "hidden_size": 40,
    "intermediate_size": 70, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 10, "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true, "hidden_act": "silu"})";
constexpr Batch batch{2, 45};

class ModelPass : public ::testing::Test {
protected:
    ModelPass() {
        std::uint32_t seed = 1;
        write_weights_store(folder_.file("model.h5"), config_json, [&](const TensorSpec& spec) {
            std::vector<float> values(spec.shape.size() == 1 ? static_cast<std::size_t>(spec.shape[0])
                                                             : static_cast<std::size_t>(spec.shape[0] * spec.shape[1]));
            Uniform next(seed++, spec.shape.size() == 1 ? 1 : 0.3);
            for (float& value : values) value = static_cast<float>(next());
            return values;
        });
    }

    Model load(Backend& backend, DType precision) const {
        return load_model(backend, StoreReader(folder_.file("model.h5"), "weights"), precision, 64, Residency::all);
    }

    PassResult run(DType precision, const PassOptions& options) const {
        const auto backend = make_cpu_backend({});
        const Model model = load(*backend, precision);
        const OwnedTensor tokens = random_ids(batch.tokens(), 71, 1);
        const OwnedTensor ids = random_ids(batch.tokens(), 71, 2);
        std::vector<std::int64_t> targets;
        for (const double id : values_of(ids)) targets.push_back(static_cast<std::int64_t>(id));
        return Pass(*backend, model, batch, options).run(tokens, targets);
    }

    TemporaryFolder folder_;
};

/// Values are compared as numbers: equal values of finite results are equal bits but for the sign of zero.
void expect_same(const PassResult& a, const PassResult& b) {
    EXPECT_EQ(a.logits, b.logits);
    EXPECT_EQ(a.losses, b.losses);
    EXPECT_EQ(a.hidden, b.hidden);
    EXPECT_EQ(a.d_input, b.d_input);
    EXPECT_EQ(a.gradients, b.gradients);
    for (const float value : a.d_input) ASSERT_TRUE(std::isfinite(value));
}

TEST_F(ModelPass, KeptAndRecomputedActivationsGiveTheSameBits) {
    for (const DType precision : {DType::f32, DType::bf16}) {
        with_threads(1, [&] { expect_same(run(precision, {}), run(precision, {.keep_activations = true})); });
    }
}

TEST_F(ModelPass, SameBitsForAnyNumberOfThreads) {
    if (cpu::block_unit() == cpu::BlockUnit::none) GTEST_SKIP() << "a library multiplies";
    PassResult one;
    with_threads(1, [&] { one = run(DType::bf16, {}); });
    for (const int threads : {2, 3}) {
        with_threads(threads, [&] { expect_same(one, run(DType::bf16, {})); });
    }
}

TEST_F(ModelPass, BlockForwardInPlace) {
    for (const DType precision : {DType::f32, DType::bf16}) {
        const auto backend = make_cpu_backend({});
        const Model model = load(*backend, precision);
        const auto activations = allocate_activations(backend->arena(), model.config, precision, batch);
        const OwnedTensor in = random_tensor(precision, {batch.tokens(), model.config.width}, 1);
        OwnedTensor out(precision, {batch.tokens(), model.config.width});
        OwnedTensor in_place = in;
        with_threads(1, [&] {
            block_forward(backend->ops(), model, model.blocks[1], out, in, activations, batch);
            block_forward(backend->ops(), model, model.blocks[1], in_place, in_place, activations, batch);
        });
        EXPECT_TRUE(same_bits(out, in_place));
    }
}

// Sequences do not see each other, and a token does not see those after it.
TEST_F(ModelPass, Causal) {
    const auto backend = make_cpu_backend({});
    const Model model = load(*backend, DType::f32);
    const auto activations = allocate_activations(backend->arena(), model.config, DType::f32, batch);
    const std::int64_t width = model.config.width;
    OwnedTensor in = random_tensor(DType::f32, {batch.tokens(), width}, 1);
    OwnedTensor before(DType::f32, {batch.tokens(), width});
    OwnedTensor after(DType::f32, {batch.tokens(), width});
    with_threads(1, [&] {
        block_forward(backend->ops(), model, model.blocks[0], before, in, activations, batch);
        in.set(20 * width, 5);
        block_forward(backend->ops(), model, model.blocks[0], after, in, activations, batch);
    });
    EXPECT_TRUE(same_bits(before->rows(0, 20), after->rows(0, 20)));
    EXPECT_FALSE(same_bits(before->rows(44, 1), after->rows(44, 1)));
    EXPECT_TRUE(same_bits(before->rows(45, 45), after->rows(45, 45)));
}

}  // namespace
}  // namespace pvtune
