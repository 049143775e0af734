// Whole runs on the CUDA backend against the CPU backend: losses, codes, and the bits of repeated and resumed runs.
#include "cuda/runtime.h"
#include "tests/tuning.h"

namespace pvtune::cuda {
namespace {

using namespace pvtune::testing;

std::unique_ptr<Backend> cuda_backend() { return make_cuda_backend({}); }

class CudaTuning : public Tuning {
protected:
    static constexpr std::int64_t steps = 2;

    /// Every group may move: scores of the first step are all but equal (its updates are signs), so that the last bit
    /// would choose among them.
    static TuneSettings settings_of(Strategy strategy) {
        TuneSettings settings = quick(strategy);
        settings.steps = 2 * steps;
        settings.code_rate = 0.2F;
        settings.tau = 1;
        return settings;
    }

    void compare(const TuneSettings& settings, DType precision, double tolerance) {
        Session cpu(folder_, settings, {.precision = precision});
        Session cuda(folder_, settings, {.precision = precision, .backend = cuda_backend});
        const auto expected = cpu.run_to(steps, text_of(10));
        const auto got = cuda.run_to(steps, text_of(10));
        ASSERT_EQ(got.size(), expected.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
            EXPECT_NEAR(got[i].loss / expected[i].loss, 1, tolerance) << name_of(settings.strategy) << ", step " << i;
            EXPECT_EQ(got[i].selected, expected[i].selected);
            EXPECT_EQ(got[i].groups, expected[i].groups);
            // A group whose two best encodings are as good as equal may go either way.
            const auto changed = static_cast<double>(expected[i].changed);
            EXPECT_NEAR(static_cast<double>(got[i].changed), changed, 1 + 0.05 * changed);
        }
        EXPECT_EQ(expected.back().changed == 0, settings.strategy == Strategy::continuous);
    }
};

TEST_F(CudaTuning, GivesTheLossesOfTheCpu) {
    // Products and sums in another order.
    for (const Strategy strategy : all_strategies) compare(settings_of(strategy), DType::f32, 1e-4);
}

TEST_F(CudaTuning, GivesTheLossesOfTheCpuWithEverySubspace) {
    for (int i = 0; i <= static_cast<int>(Subspace::eager); ++i) {
        TuneSettings settings = settings_of(Strategy::pv);
        settings.subspace = static_cast<Subspace>(i);
        SCOPED_TRACE(name_of(settings.subspace));
        compare(settings, DType::f32, 1e-3);
    }
}

TEST_F(CudaTuning, GivesTheLossesOfTheCpuInBf16) {
    write_models(tied_config, {"aqlm", 2, 4, 4});
    // Every activation may round the other way (2^-9 of itself), and some dozens of them lie between the text and a
    // loss that is a mean over 48 tokens.
    compare(settings_of(Strategy::pv_ste), DType::bf16, 1e-2);
}

TEST_F(CudaTuning, QuipGivesTheLossesOfTheCpu) {
    write_models(untied_config, {"quip", 1, 3, 8});
    TuneSettings settings = settings_of(Strategy::pv_ste);
    settings.trust_ratio = 10;  // bounds nothing, but goes through all of its operations
    compare(settings, DType::f32, 1e-4);
}

TEST_F(CudaTuning, RepeatsAndResumesBitForBit) {
    TuneSettings settings = settings_of(Strategy::pv_ste);
    settings.trust_ratio = 0.3;
    settings.tau = 0.05;
    settings.steps = 3;
    const SessionOptions options{.precision = DType::bf16, .backend = cuda_backend};
    Session straight(folder_, settings, options);
    straight.run_to(1, text_of(10));
    SessionOptions later = options;
    later.checkpoint = folder_.file("checkpoint");
    straight.tuner().save_checkpoint(later.checkpoint, "a test", "the files");
    straight.run_to(3, text_of(10));

    Session resumed(folder_, settings, later);
    resumed.run_to(3, text_of(10));
    EXPECT_EQ(state_hash(resumed), state_hash(straight));
}

TEST_F(CudaTuning, WhereThingsAreKeptDoesNotChangeTheBits) {
    TuneSettings settings = settings_of(Strategy::pv);
    settings.batch = 2;
    settings.micro_batch = 1;
    std::vector<std::string> hashes;
    for (const Activations activations : {Activations::keep, Activations::recompute}) {
        Session session(folder_, settings,
                        {.precision = DType::bf16,
                         .activations = activations,
                         .offload = activations == Activations::recompute,
                         .backend = cuda_backend});
        session.run_to(1, text_of(10));
        hashes.push_back(state_hash(session));
    }
    EXPECT_EQ(hashes[0], hashes[1]);
}

TEST_F(CudaTuning, AllocatesInTheFirstStepOnly) {
    Session session(folder_, settings_of(Strategy::pv_ste), {.precision = DType::bf16, .backend = cuda_backend});
    session.run_to(1, text_of(10));
    const auto free_bytes = [] {
        std::size_t free = 0;
        std::size_t total = 0;
        check(cudaMemGetInfo(&free, &total), "the memory of the device");
        return free;
    };
    const std::size_t after_one = free_bytes();
    session.run_to(steps, text_of(10));
    EXPECT_EQ(free_bytes(), after_one);
}

TEST_F(CudaTuning, ANanInTheTeacherStopsTheRunAndIsNamed) {
    const auto spoil = [](Model&, Model& teacher) {
        const float nan = std::numeric_limits<float>::quiet_NaN();
        const Tensor norm = teacher.blocks[1].norms[mlp_norm];
        check(cudaDeviceSynchronize(), "the upload of the model, on a stream of its own");
        check(cudaMemcpy(norm.data, &nan, sizeof(nan), cudaMemcpyHostToDevice), "a NaN");
        check(cudaDeviceSynchronize(), "the NaN, on the stream that no other waits for");
    };
    Session session(folder_, settings_of(Strategy::pv), {.backend = cuda_backend, .spoil = spoil});
    try {
        session.run_to(1, text_of(10));
        FAIL() << "a NaN went through";
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("the teacher's model.layers.1.post_attention_layernorm.weight"),
                  std::string::npos)
            << error.what();
    }
}

}  // namespace
}  // namespace pvtune::cuda
