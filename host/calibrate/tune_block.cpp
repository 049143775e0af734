#include "host/calibrate/tune_block.h"

#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pvtune {

namespace {

/// Everything that moves, the quantised matrices' parameters first.
struct Parameter {
    Tensor value;
    Tensor gradient;
};

class BlockTuner {
public:
    BlockTuner(Backend& backend, Model& model, std::int64_t index, const BlockWork& work, BlockTuneState& state)
        : backend_(backend),
          ops_(backend.ops()),
          model_(model),
          block_(model.blocks.front()),
          work_(work),
          state_(state) {
        std::size_t number = 0;
        for (const Matrix& matrix : block_.matrices) {
            for (const ContinuousParameter& parameter : matrix.quantized->parameters()) {
                add(parameter.value, shared_gradient(number++, parameter.value.elements()));
            }
        }
        const auto dense = dense_parameters(block_, model.config, index);
        const std::vector<Tensor> gradients = dense_gradients(work.gradients, model.config);
        for (std::size_t i = 0; i < dense.size(); ++i) add(dense[i].second, gradients[i]);
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            if (state_.first_moments.size() == i ||
                state_.first_moments[i].elements() < parameters_[i].value.elements()) {
                state_.first_moments.resize(std::max(state_.first_moments.size(), i + 1));
                state_.second_moments.resize(state_.first_moments.size());
                state_.first_moments[i] = allocate(parameters_[i].value.elements());
                state_.second_moments[i] = allocate(parameters_[i].value.elements());
            }
            ops_.fill_zero(state_.first_moments[i]);
            ops_.fill_zero(state_.second_moments[i]);
        }
    }

    void prepare() { prepare_block(ops_, model_, 0); }

    /// Mean squared error over sequences [first, last) and the targets' mean square.
    std::pair<double, double> evaluate(ActivationStream& inputs, ActivationStream& targets, std::int64_t first,
                                       std::int64_t last) {
        double error = 0;
        double square = 0;
        for (std::int64_t at = first; at < last; at += work_.batch.sequences) {
            const BlockWork part = load(inputs, targets, at, std::min(work_.batch.sequences, last - at));
            block_forward(ops_, model_, block_, part.out, part.in, part.activations, part.batch);
            ops_.mse_loss(part.losses, {}, part.out, part.target, 0);
            error += sum_of_losses(part);
            square += backend_.sum_of_squares(part.target);
        }
        const auto tokens = static_cast<double>((last - first) * work_.batch.length);
        return {error / tokens, square / (tokens * static_cast<double>(model_.config.width))};
    }

    void step(ActivationStream& inputs, ActivationStream& targets, std::int64_t first, std::int64_t count, float rate) {
        clear_dense_gradients(ops_, work_.gradients);
        for (std::int64_t at = first; at < first + count; at += work_.batch.sequences) {
            const BlockWork part = load(inputs, targets, at, std::min(work_.batch.sequences, first + count - at));
            block_forward(ops_, model_, block_, part.out, part.in, part.activations, part.batch);
            ops_.mse_loss(part.losses, part.d_hidden, part.out, part.target, 1);
            block_backward(ops_, model_, block_, part.d_hidden, part.in, part.activations, part.gradients,
                           part.backward, part.batch, at > first);
        }
        ++updates_;
        std::size_t at = 0;
        for (std::size_t i = 0; i < matrices_per_block; ++i) {
            const Representation& quantized = *block_.matrices[i].quantized;
            std::vector<Tensor> gradients;
            const std::size_t count_of = quantized.parameters().size();
            for (std::size_t j = 0; j < count_of; ++j) gradients.push_back(parameters_[at++].gradient);
            quantized.backward(ops_, gradients, work_.gradients.weights[i]);
        }
        for (std::size_t i = 0; i < parameters_.size(); ++i) update(i, rate);
        prepare();
    }

    std::vector<std::vector<float>> snapshot() const {
        std::vector<std::vector<float>> values;
        for (const Parameter& parameter : parameters_) {
            values.emplace_back(static_cast<std::size_t>(parameter.value.elements()));
            backend_.download(values.back().data(), parameter.value);
        }
        return values;
    }
    void restore(const std::vector<std::vector<float>>& values) {
        for (std::size_t i = 0; i < values.size(); ++i) backend_.upload(parameters_[i].value, values[i].data());
        prepare();
    }

private:
    Tensor allocate(std::int64_t elements) { return backend_.arena().allocate("block tuning", DType::f32, {elements}); }
    Tensor shared_gradient(std::size_t number, std::int64_t elements) {
        if (state_.gradients.size() <= number) state_.gradients.resize(number + 1);
        Tensor& gradient = state_.gradients[number];
        if (gradient.empty() || gradient.elements() < elements) gradient = allocate(elements);
        return gradient;
    }
    void add(Tensor value, Tensor gradient) {
        Tensor shaped = value;
        shaped.data = gradient.data;
        shaped.dtype = DType::f32;
        parameters_.push_back({value, shaped});
    }
    void update(std::size_t i, float rate) {
        const Parameter& parameter = parameters_[i];
        AdamSettings adam;
        adam.rate = rate;
        adam.step = updates_;
        const auto shaped = [&](Tensor moment) {
            Tensor tensor = parameter.value;
            tensor.data = moment.data;
            return tensor;
        };
        ops_.sum_of_squares(work_.squares, parameter.gradient);
        ops_.adam(parameter.value, shaped(state_.first_moments[i]), shaped(state_.second_moments[i]),
                  parameter.gradient, {}, work_.squares, adam);
    }
    /// The buffers cut to `count` sequences, with inputs and targets in them.
    BlockWork load(ActivationStream& inputs, ActivationStream& targets, std::int64_t first, std::int64_t count) {
        BlockWork part = first_sequences(work_, count);
        inputs.read(first, count, part.in);
        targets.read(first, count, part.target);
        return part;
    }
    double sum_of_losses(const BlockWork& part) {
        std::vector<float> losses(static_cast<std::size_t>(part.losses.elements()));
        backend_.download(losses.data(), part.losses);
        return std::accumulate(losses.begin(), losses.end(), 0.0);
    }

    Backend& backend_;
    Ops& ops_;
    Model& model_;
    Block& block_;
    const BlockWork& work_;
    BlockTuneState& state_;
    std::vector<Parameter> parameters_;
    std::int64_t updates_ = 0;
};

}  // namespace

BlockWork allocate_block_work(Backend& backend, const Model& model, const Batch& batch, bool backward) {
    Arena& arena = backend.arena();
    BlockWork work;
    work.batch = batch;
    work.activations = allocate_activations(arena, model.config, model.precision, batch);
    const auto states = [&] {
        return arena.allocate("hidden states", model.precision, {batch.tokens(), model.config.width});
    };
    work.in = states();
    work.out = states();
    if (!backward) return work;
    work.target = states();
    work.d_hidden = states();
    work.backward = allocate_backward(arena, model.config, model.precision, batch);
    work.gradients = allocate_gradients(arena, model);
    work.losses = arena.allocate("losses", DType::f32, {batch.tokens()});
    work.squares = arena.allocate("losses", DType::f64, {1});
    return work;
}

BlockWork first_sequences(const BlockWork& work, std::int64_t count) {
    BlockWork part = work;
    if (count == work.batch.sequences) return part;
    part.batch.sequences = count;
    const std::int64_t tokens = part.batch.tokens();
    part.activations = first_rows(work.activations, part.batch);
    for (Tensor* rows : {&part.in, &part.out, &part.target, &part.d_hidden, &part.losses, &part.backward.d_activated,
                         &part.backward.d_attention, &part.backward.d_q, &part.backward.d_k, &part.backward.d_v,
                         &part.backward.d_normed}) {
        if (!rows->empty()) *rows = rows->rows(0, tokens);
    }
    return part;
}

BlockTuneReport tune_block(Backend& backend, Model& model, std::int64_t index, const BlockWork& work,
                           BlockTuneState& state, ActivationStream& inputs, ActivationStream& targets,
                           std::int64_t sequences, const BlockTuneSettings& settings) {
    BlockTuner tuner(backend, model, index, work, state);
    tuner.prepare();
    const auto held_out = static_cast<std::int64_t>(std::ceil(settings.held_out * static_cast<double>(sequences)));
    const std::int64_t trained = std::max<std::int64_t>(1, sequences - held_out);
    const std::int64_t first_held_out = std::min(trained, sequences - 1);  // of one sequence both are the same
    const auto [error, square] = tuner.evaluate(inputs, targets, first_held_out, sequences);
    BlockTuneReport report{error / square, error / square, 0};
    if (!std::isfinite(error)) {
        throw Error("block " + std::to_string(index) +
                    ": its outputs are not finite: look at the model with pvtune eval, or use --precision f32");
    }
    if (settings.epochs == 0) return report;
    double best = error;
    std::vector<std::vector<float>> kept = tuner.snapshot();
    for (int epoch = 0; epoch < settings.epochs; ++epoch) {
        for (std::int64_t first = 0; first < trained; first += settings.batch) {
            tuner.step(inputs, targets, first, std::min(settings.batch, trained - first), settings.rate);
        }
        const double now = tuner.evaluate(inputs, targets, first_held_out, sequences).first;
        if (!(now < best)) break;
        best = now;
        kept = tuner.snapshot();
        report.epochs = epoch + 1;
    }
    tuner.restore(kept);
    report.after = best / square;
    return report;
}

}  // namespace pvtune
