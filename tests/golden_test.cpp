// Tiny random models against what Hugging Face computes in f64: tests/golden/README.md says what the folders hold.

#include "host/backend/cpu/bf16_blocks.h"
#include "host/model/import.h"
#include "host/model/source.h"
#include "io/safetensors.h"
#include "tests/files.h"
#include "tests/model_store.h"

#include <optional>

namespace pvtune {
namespace {

using namespace pvtune::testing;

/// f32: largest difference relative to the largest value of the reference tensor. The f64 reference and its own f32 run
/// are within 1e-5 of each other; ours comes within 4e-6.
constexpr double f32_bound = 1e-4;
/// bf16: length of the difference relative to the length of the reference tensor. Every activation and weight is
/// rounded to 2^-8 of itself some twenty times on the way through two blocks, and so tiny a model averages little of
/// that out.
constexpr double bf16_bound = 0.15;

double error_of(DType precision, const std::vector<float>& got, const Values& expected) {
    Values difference(got.begin(), got.end());
    if (precision == DType::f32) return relative_error(difference, expected);
    if (got.size() != expected.size()) return INFINITY;
    for (std::size_t i = 0; i < got.size(); ++i) difference[i] -= expected[i];
    return std::sqrt(dot(difference, difference) / dot(expected, expected));
}

Values tensor_of(const SafetensorsFolder& folder, const std::string& name) {
    const TensorInfo& info = folder.info(name);
    const auto count = static_cast<std::size_t>(info.elements());
    const auto read = [&]<class T>(T) {
        std::vector<T> raw(count);
        std::memcpy(raw.data(), folder.data(name), count * sizeof(T));
        return Values(raw.begin(), raw.end());
    };
    switch (info.dtype) {
        case DType::f32:
            return read(float{});
        case DType::f64:
            return read(double{});
        case DType::i64:
            return read(std::int64_t{});
        default:
            ADD_FAILURE() << name;
            return {};
    }
}

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(PVTUNE_SOURCE_DIR "/tests/golden")) {
        if (std::filesystem::exists(entry.path() / "reference.safetensors")) names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
}

class Golden : public ::testing::TestWithParam<std::string> {
protected:
    std::string path(const std::string& file) const {
        return PVTUNE_SOURCE_DIR "/tests/golden/" + GetParam() + "/" + file;
    }

    Model load(Backend& backend, const std::string& weights, DType precision, std::int64_t length) const {
        const TemporaryFolder folder;
        std::filesystem::copy_file(path("config.json"), folder.file("config.json"));
        std::filesystem::copy_file(path(weights), folder.file("model.safetensors"));
        const std::string store = folder.file("model.h5");
        import_model(folder.path(), store, "a test", [](const std::string&, std::int64_t) {});
        return load_model(backend, StoreReader(store, "weights"), precision, length, Residency::all);
    }

    /// Every reference tensor against ours.
    void check(DType precision, bool distil) const {
        const double bound = precision == DType::f32 ? f32_bound : bf16_bound;
        const SafetensorsFolder reference(path("reference.safetensors"));
        const auto shape = reference.info("tokens").shape;
        const Batch batch{shape[0], shape[1]};
        const Values ids = tensor_of(reference, "tokens");
        OwnedTensor tokens(DType::u32, {batch.tokens()});
        std::vector<std::int64_t> targets(ids.size(), -1);
        for (std::int64_t t = 0; t < batch.tokens(); ++t) {
            const auto at = static_cast<std::size_t>(t);
            tokens.set(t, ids[at]);
            if ((t + 1) % batch.length != 0) targets[at] = static_cast<std::int64_t>(ids[at + 1]);
        }
        const auto backend =
            make_cpu_backend({.threads = 1, .planning = false});  // a team costs more than it does here
        const Model model = load(*backend, "model.safetensors", precision, batch.length);
        Model teacher;
        PassOptions options;
        if (distil) {
            teacher = load(*backend, "teacher.safetensors", precision, batch.length);
            options.teacher = &teacher;
        }
        const PassResult result = Pass(*backend, model, batch, options).run(tokens, targets);

        EXPECT_LT(error_of(precision, result.logits, tensor_of(reference, "logits")), bound);
        double sum = 0;
        for (const float loss : result.losses) sum += static_cast<double>(loss);
        const auto count = distil
                               ? batch.tokens()
                               : std::count_if(targets.begin(), targets.end(), [](auto target) { return target >= 0; });
        const double loss = tensor_of(reference, distil ? "kl_loss" : "loss").front();
        EXPECT_NEAR(sum / static_cast<double>(count), loss, bound * loss);
        const std::string prefix = distil ? "kl_grad." : "grad.";
        std::size_t checked = 0;
        for (const SourceTensor& source : source_tensors(model.config)) {
            ASSERT_TRUE(reference.has(prefix + source.name)) << source.name;
            std::vector<float> gradient;
            for (const TensorSpec& part : source.parts) {
                const std::vector<float>& rows = result.gradients.at(part.name);
                gradient.insert(gradient.end(), rows.begin(), rows.end());
            }
            EXPECT_LT(error_of(precision, gradient, tensor_of(reference, prefix + source.name)), bound) << source.name;
            ++checked;
        }
        const auto names = reference.names();
        EXPECT_EQ(checked, static_cast<std::size_t>(std::count_if(names.begin(), names.end(), [&](const auto& name) {
                      return name.starts_with(prefix);
                  })));
    }

    bool has_teacher() const { return std::filesystem::exists(path("teacher.safetensors")); }
};

TEST_P(Golden, F32) {
    check(DType::f32, false);
    if (has_teacher()) check(DType::f32, true);
}

TEST_P(Golden, Bf16) {
    check(DType::bf16, false);
    if (has_teacher()) check(DType::bf16, true);
}

TEST_P(Golden, Bf16WithoutBlocks) {
    const cpu::LimitBlockUnit limited(cpu::BlockUnit::none);
    check(DType::bf16, false);
}

INSTANTIATE_TEST_SUITE_P(Cases, Golden, ::testing::ValuesIn(case_names()), [](const auto& parameter) {
    std::string name = parameter.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
});

}  // namespace
}  // namespace pvtune
