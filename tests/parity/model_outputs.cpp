// What a model gives for a batch, for comparison with other programs: model_outputs MODEL.h5 TOKENS.safetensors OUT.h5
// TOKENS holds `tokens` i64 [sequences, length]. OUT holds /logits f32 [tokens, vocabulary], /losses f32 [tokens]
// (-log p of the next token, 0 for the last of a sequence) and /gradients/<tensor>, f32, of their mean, by the names
// and in the shapes of the Hugging Face folder that MODEL came from.

#include "host/model/source.h"
#include "io/error.h"
#include "io/safetensors.h"
#include "tests/model_store.h"

#include <iostream>

namespace pvtune::testing {

void write_outputs(const std::string& model_path, const std::string& tokens_path, const std::string& out) {
    const SafetensorsFolder inputs(tokens_path);
    const TensorInfo& info = inputs.info("tokens");
    if (info.dtype != DType::i64 || info.shape.size() != 2) {
        throw Error(tokens_path + ": tokens must be i64 [sequences, length]");
    }
    const Batch batch{info.shape[0], info.shape[1]};
    std::vector<std::int64_t> ids(static_cast<std::size_t>(batch.tokens()));
    std::memcpy(ids.data(), inputs.data("tokens"), static_cast<std::size_t>(info.bytes()));
    OwnedTensor tokens(DType::u32, {batch.tokens()});
    std::vector<std::int64_t> targets(ids.size(), -1);
    for (std::int64_t t = 0; t < batch.tokens(); ++t) {
        const auto at = static_cast<std::size_t>(t);
        tokens.set(t, static_cast<double>(ids[at]));
        if ((t + 1) % batch.length != 0) targets[at] = ids[at + 1];
    }

    const StoreReader store(model_path, "weights");
    const auto backend = make_cpu_backend({.threads = 1, .planning = false});
    const Model model = load_model(*backend, store, DType::f32, batch.length, Residency::all);
    const PassResult result = Pass(*backend, model, batch, {}).run(tokens, targets);

    StoreWriter writer(out, "outputs", "model_outputs");
    writer.write("logits", DType::f32, {batch.tokens(), model.config.vocabulary}, result.logits.data());
    writer.write("losses", DType::f32, {batch.tokens()}, result.losses.data());
    for (const SourceTensor& source : source_tensors(model.config)) {
        std::vector<float> gradient;
        for (const TensorSpec& part : source.parts) {
            const std::vector<float>& rows = result.gradients.at(part.name);
            gradient.insert(gradient.end(), rows.begin(), rows.end());
        }
        writer.write("gradients/" + source.name, DType::f32, source.shape, gradient.data());
    }
    writer.commit();
}

}  // namespace pvtune::testing

int main(int count, char** arguments) {
    if (count != 4) {
        std::cerr << "usage: model_outputs MODEL.h5 TOKENS.safetensors OUT.h5\n";
        return 2;
    }
    try {
        pvtune::testing::write_outputs(arguments[1], arguments[2], arguments[3]);
    } catch (const pvtune::Error& error) {
        std::cerr << "model_outputs: " << error.what() << "\n";
        return 2;
    }
}
