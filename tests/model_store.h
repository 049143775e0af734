#pragma once

#include "host/model/block.h"
#include "host/model/embedding.h"
#include "host/model/head.h"
#include "host/model/model.h"
#include "tests/tensors.h"

#include <map>
#include <string>

/// Whole models in tests: a dense weights store from named values, a forward and backward pass over all blocks.
namespace pvtune::testing {

using NamedValues = std::map<std::string, std::vector<float>>;

/// Writes the tensors that the config asks for; `values` gives each by name.
template <class ValuesOf>
void write_weights_store(const std::string& path, const std::string& config_json, const ValuesOf& values) {
    StoreWriter writer(path, "weights", "a test");
    writer.set_text("/", "config", config_json);
    for (const TensorSpec& spec : tensor_specs(parse_config(config_json, path))) {
        const std::vector<float> data = values(spec);
        writer.write("tensors/" + spec.name, DType::f32, spec.shape, data.data());
    }
    writer.commit();
}

/// What one pass over a batch gives: outputs and the gradients of every parameter, by their Hugging Face names.
struct PassResult {
    std::vector<float> logits, losses, hidden, d_input;
    NamedValues gradients;
};

struct PassOptions {
    bool keep_activations = false;   ///< a set a block, else one set that the backward pass fills again
    const Model* teacher = nullptr;  ///< distil from it instead of predicting targets
};

inline std::vector<float> floats_of(Tensor tensor) {
    const Values values = values_of(tensor);
    return {values.begin(), values.end()};
}

/// Forward and backward over all blocks and the head, once: gradients are not cleared between runs.
class Pass {
public:
    Pass(Backend& backend, const Model& model, const Batch& batch, const PassOptions& options)
        : backend_(backend), model_(model), batch_(batch), options_(options) {
        Arena& arena = backend.arena();
        const ModelConfig& config = model.config;
        const std::int64_t tokens = batch.tokens();
        hidden_ = arena.allocate("hidden", model.precision, {config.layers + 1, tokens, config.width});
        teacher_hidden_ = arena.allocate("hidden", model.precision, {tokens, config.width});
        d_hidden_ = arena.allocate("hidden", model.precision, {tokens, config.width});
        for (std::int64_t i = 0; i < (options.keep_activations ? config.layers : 1); ++i) {
            activations_.push_back(allocate_activations(arena, config, model.precision, batch));
        }
        for (std::int64_t i = 0; i < config.layers; ++i) gradients_.push_back(allocate_gradients(arena, model));
        backward_ = allocate_backward(arena, config, model.precision, batch);
        head_ = allocate_head(arena, config, model.precision, batch, HeadUse::distill);
        d_embedding_ = arena.allocate("gradients", DType::f32, {config.vocabulary, config.width});
        head_gradients_.head =
            config.tied ? d_embedding_ : arena.allocate("gradients", DType::f32, {config.vocabulary, config.width});
        head_gradients_.final_norm = arena.allocate("gradients", DType::f32, {config.width});
        all_logits_ = arena.allocate("logits", DType::f32, {tokens, config.vocabulary});
    }

    /// targets[t] < 0: row t predicts nothing.
    PassResult run(Tensor tokens, const std::vector<std::int64_t>& targets) {
        Ops& ops = backend_.ops();
        const ModelConfig& config = model_.config;
        forward(model_, tokens);
        logits(ops, model_, head_, all_logits_, hidden(config.layers));
        PassResult result;
        result.logits = floats_of(all_logits_);
        result.hidden = floats_of(hidden(config.layers));
        if (options_.teacher != nullptr) {
            distill_from_teacher(tokens);
        } else {
            predict(targets);
        }
        result.losses = floats_of(head_.losses);
        for (std::int64_t i = config.layers; i-- > 0;) {
            const auto block = static_cast<std::size_t>(i);
            if (!options_.keep_activations) {
                // The output of a recomputed block is not needed: it goes where the next block's gradients do not look.
                block_forward(ops, model_, model_.blocks[block], teacher_hidden_, hidden(i), activations(i), batch_);
            }
            block_backward(ops, model_, model_.blocks[block], d_hidden_, hidden(i), activations(i), gradients_[block],
                           backward_, batch_, false);
        }
        result.d_input = floats_of(d_hidden_);
        embed_backward(ops, model_, d_embedding_, d_hidden_, tokens);
        collect(result.gradients);
        return result;
    }

private:
    Tensor hidden(std::int64_t i) const { return hidden_.rows(i, 1).reshaped({batch_.tokens(), model_.config.width}); }
    const BlockActivations& activations(std::int64_t i) const {
        return activations_[options_.keep_activations ? static_cast<std::size_t>(i) : 0];
    }

    void forward(const Model& model, Tensor tokens) {
        Ops& ops = backend_.ops();
        embed(ops, model, hidden(0), tokens);
        for (std::int64_t i = 0; i < model.config.layers; ++i) {
            block_forward(ops, model, model.blocks[static_cast<std::size_t>(i)], hidden(i + 1), hidden(i),
                          activations(i), batch_);
        }
    }

    /// The mean over the rows that have a target. cross_entropy() wants one for every row of a call, so each run of
    /// rows between gaps is a call of its own; d_hidden of the other rows is zero.
    void predict(const std::vector<std::int64_t>& targets) {
        const auto count =
            std::count_if(targets.begin(), targets.end(), [](std::int64_t target) { return target >= 0; });
        OwnedTensor ids(DType::u32, {batch_.tokens()});
        for (std::int64_t t = 0; t < batch_.tokens(); ++t) {
            ids.set(t, static_cast<double>(std::max<std::int64_t>(0, targets[static_cast<std::size_t>(t)])));
        }
        backend_.ops().fill_zero(d_hidden_);
        backend_.ops().fill_zero(head_.losses);
        for (std::int64_t first = 0; first < batch_.tokens();) {
            std::int64_t last = first;
            while (last < batch_.tokens() && targets[static_cast<std::size_t>(last)] >= 0) ++last;
            if (last > first) {
                HeadBuffers rows = head_;
                rows.losses = head_.losses.rows(first, last - first);
                cross_entropy(backend_.ops(), model_, rows, hidden(model_.config.layers).rows(first, last - first),
                              Tensor(ids).rows(first, last - first), d_hidden_.rows(first, last - first),
                              head_gradients_, 1.0F / static_cast<float>(count));
            }
            first = last + 1;
        }
    }

    void distill_from_teacher(Tensor tokens) {
        const std::int64_t layers = model_.config.layers;
        forward(*options_.teacher, tokens);
        std::memcpy(teacher_hidden_.data, hidden(layers).data, static_cast<std::size_t>(teacher_hidden_.bytes()));
        forward(model_, tokens);
        distill(backend_.ops(), model_, *options_.teacher, head_, hidden(layers), teacher_hidden_, d_hidden_,
                head_gradients_, 1.0F / static_cast<float>(batch_.tokens()));
    }

    void collect(NamedValues& named) const {
        named["model.embed_tokens.weight"] = floats_of(d_embedding_);
        if (!model_.config.tied) named["lm_head.weight"] = floats_of(head_gradients_.head);
        named["model.norm.weight"] = floats_of(head_gradients_.final_norm);
        for (std::size_t i = 0; i < gradients_.size(); ++i) {
            const BlockGradients& g = gradients_[i];
            const auto dense = dense_parameters(model_.blocks[i], model_.config, static_cast<std::int64_t>(i));
            const std::vector<Tensor> of_dense = dense_gradients(g, model_.config);
            for (std::size_t j = 0; j < dense.size(); ++j) named[dense[j].first] = floats_of(of_dense[j]);
            for (std::size_t m = 0; m < matrices_per_block; ++m) {
                named[model_.blocks[i].matrices[m].name] = floats_of(g.weights[m]);
            }
        }
    }

    Backend& backend_;
    const Model& model_;
    Batch batch_;
    PassOptions options_;
    Tensor hidden_, teacher_hidden_, d_hidden_, d_embedding_, all_logits_;
    std::vector<BlockActivations> activations_;
    std::vector<BlockGradients> gradients_;
    BackwardBuffers backward_;
    HeadBuffers head_;
    HeadGradients head_gradients_;
};

}  // namespace pvtune::testing
