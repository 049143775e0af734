#include "host/tune/tuner.h"

#include "host/tune/finite.h"
#include "io/error.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace pvtune {

namespace {

bool same_block_shapes(const ModelConfig& a, const ModelConfig& b) {
    return a.width == b.width && a.intermediate == b.intermediate && a.heads == b.heads && a.kv_heads == b.kv_heads &&
           a.head_dim == b.head_dim;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

Tuner::Tuner(Backend& backend, const TuneSettings& settings, Model student, Model teacher, Activations activations)
    : backend_(backend), settings_(settings), student_(std::move(student)), teacher_(std::move(teacher)) {
    if (student_.config.width != teacher_.config.width || student_.config.vocabulary != teacher_.config.vocabulary) {
        throw Error("the teacher has a width of " + std::to_string(teacher_.config.width) + " and a vocabulary of " +
                    std::to_string(teacher_.config.vocabulary) + ", the model of " +
                    std::to_string(student_.config.width) + " and " + std::to_string(student_.config.vocabulary) +
                    ": give the model that was quantised as --teacher");
    }
    assert(student_.residency == Residency::one_block);  // else nothing would dequantise what the steps change
    micro_ = {settings.sequences_together(), settings.length};
    micro_batches_ = settings.batch / micro_.sequences;
    if (activations == Activations::automatic) {
        Arena plan;
        const auto first = allocate_activations(plan, student_.config, student_.precision, micro_);
        const std::int64_t shared = first.normed.bytes() + first.activated.bytes();
        const std::int64_t all = (plan.bytes() - shared) * student_.config.layers * micro_batches_ + shared;
        keep_ = all < backend.memory_limit() / 4;
    } else {
        keep_ = activations == Activations::keep;
    }
    allocate();
}

void Tuner::allocate() {
    Arena& arena = backend_.arena();
    const ModelConfig& config = student_.config;
    const DType precision = student_.precision;
    const auto state = [&](const char* name) {
        return arena.allocate(name, precision, {micro_.tokens(), config.width});
    };
    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
        tokens_.push_back(arena.allocate("tokens", DType::u32, {micro_.tokens()}));
        for (std::int64_t block = 0; block <= config.layers; ++block) hidden_.push_back(state("block inputs"));
        teacher_hidden_.push_back(state("teacher's last hidden states"));
        d_hidden_.push_back(state("gradient of hidden states"));
    }
    const std::int64_t sets = keep_ ? micro_batches_ * config.layers : 1;
    for (std::int64_t i = 0; i < sets; ++i) {
        const BlockActivations* first = i > 0 ? &activations_.front() : nullptr;
        activations_.push_back(allocate_activations(arena, config, precision, micro_, first));
    }
    // The teacher is done before the student starts.
    teacher_activations_ = same_block_shapes(config, teacher_.config)
                               ? activations_.front()
                               : allocate_activations(arena, teacher_.config, precision, micro_);
    backward_ = allocate_backward(arena, config, precision, micro_);
    head_ = allocate_head(arena, config, precision, micro_, HeadUse::distill);
    gradients_ = allocate_gradients(arena, student_);
    if (settings_.strategy != Strategy::continuous) v_scratch_ = allocate_v_scratch(arena, student_, settings_);

    std::map<std::string, Tensor> shared_gradients;
    for (Block& block : student_.blocks) {
        BlockState state_of_block;
        for (std::size_t i = 0; i < matrices_per_block; ++i) {
            Matrix& matrix = block.matrices[i];
            if (!matrix.quantized) continue;
            MatrixState& matrix_state = state_of_block.matrices[i];
            for (const ContinuousParameter& parameter : matrix.quantized->parameters()) {
                // Blocks may be quantised differently: only equal sizes share.
                Tensor& gradient =
                    shared_gradients[std::to_string(i) + parameter.name + std::to_string(parameter.value.elements())];
                if (gradient.empty()) {
                    gradient =
                        arena.allocate("gradients of codebooks and scales", DType::f32, {parameter.value.elements()});
                }
                matrix_state.continuous.push_back(
                    trained(matrix.name + "." + parameter.name, parameter.value, gradient));
            }
            if (settings_.strategy != Strategy::continuous) {
                matrix_state.v = allocate_v_state(arena, matrix, settings_);
            }
        }
        if (settings_.train_dense) {
            const std::string prefix = "model.layers." + std::to_string(blocks_.size()) + ".";
            auto& dense = state_of_block.dense;
            dense.push_back(
                trained(prefix + "input_layernorm.weight", block.attention_norm, gradients_.attention_norm));
            dense.push_back(trained(prefix + "post_attention_layernorm.weight", block.mlp_norm, gradients_.mlp_norm));
            for (std::size_t i = 0; i < matrices_per_block; ++i) {
                const Matrix& matrix = block.matrices[i];
                if (matrix.bias.empty()) continue;
                std::string name = matrix.name;
                name.replace(name.rfind(".weight"), std::string::npos, ".bias");
                dense.push_back(trained(name, matrix.bias, gradients_.biases[i]));
            }
        }
        blocks_.push_back(std::move(state_of_block));
    }
    if (!settings_.train_dense) return;
    const auto table = [&](const std::string& name, Tensor compute) {
        const std::int64_t rows = config.vocabulary;
        Tensor value = compute;
        if (precision != DType::f32) {
            value = arena.allocate("f32 copies of embedding and head", DType::f32, {rows, config.width});
            compute_copy_[name] = compute;
        }
        dense_.push_back(
            trained(name, value, arena.allocate("gradients of embedding and head", DType::f32, {rows, config.width})));
    };
    table("model.embed_tokens.weight", student_.embedding);
    if (!config.tied) table("lm_head.weight", student_.head);
    dense_.push_back(trained("model.norm.weight", student_.final_norm,
                             arena.allocate("block gradients", DType::f32, {config.width})));
}

TrainedParameter Tuner::trained(const std::string& name, Tensor value, Tensor gradient) {
    Tensor shaped = value;
    shaped.data = gradient.data;
    const auto moment = [&] {
        Tensor tensor = value;
        tensor.data = backend_.arena().allocate("Adam moments", DType::f32, {value.elements()}).data;
        return tensor;
    };
    return {name, value, shaped, moment(), moment()};
}

void Tuner::start(const StoreReader& student_store) {
    for (const auto& [name, compute] : compute_copy_) {
        const std::vector<float> values = read_dense(student_store, name, compute.extents());
        const auto at = std::find_if(dense_.begin(), dense_.end(),
                                     [&](const TrainedParameter& parameter) { return parameter.name == name; });
        backend_.upload(at->value, values.data());
    }
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        for (std::size_t j = 0; j < matrices_per_block; ++j) {
            const Matrix& matrix = student_.blocks[i].matrices[j];
            if (matrix.quantized) start_buffer(backend_.ops(), matrix, blocks_[i].matrices[j].v);
        }
    }
}

Tensor Tuner::hidden(std::int64_t micro, std::int64_t block) const {
    return hidden_[static_cast<std::size_t>(micro * (student_.config.layers + 1) + block)];
}

const BlockActivations& Tuner::activations(std::int64_t micro, std::int64_t block) const {
    return activations_[keep_ ? static_cast<std::size_t>(micro * student_.config.layers + block) : 0];
}

void Tuner::upload_micro_batch(std::span<const std::vector<std::uint32_t>> sequences, std::int64_t micro) {
    std::vector<std::uint32_t> ids;
    ids.reserve(static_cast<std::size_t>(micro_.tokens()));
    for (std::int64_t i = 0; i < micro_.sequences; ++i) {
        const auto& sequence = sequences[static_cast<std::size_t>(micro * micro_.sequences + i)];
        ids.insert(ids.end(), sequence.begin(), sequence.end());
    }
    backend_.upload(tokens_[static_cast<std::size_t>(micro)], ids.data());
}

void Tuner::teacher_forward(std::int64_t micro) {
    Ops& ops = backend_.ops();
    const Tensor state = teacher_hidden_[static_cast<std::size_t>(micro)];
    ops.embedding_forward(state, teacher_.embedding, tokens_[static_cast<std::size_t>(micro)]);
    for (const Block& block : teacher_.blocks) {
        block_forward(ops, teacher_, block, state, state, teacher_activations_, micro_);
    }
}

double Tuner::distillation(std::int64_t micro) {
    const auto index = static_cast<std::size_t>(micro);
    HeadGradients gradients;
    if (settings_.train_dense) {
        gradients.head = dense_[student_.config.tied ? 0 : 1].gradient;
        gradients.final_norm = dense_.back().gradient;
    }
    const auto scale = 1.0F / static_cast<float>(micro_.tokens() * micro_batches_);
    distill(backend_.ops(), student_, teacher_, head_, hidden(micro, student_.config.layers), teacher_hidden_[index],
            d_hidden_[index], gradients, scale);
    std::vector<float> losses(static_cast<std::size_t>(micro_.tokens()));
    backend_.download(losses.data(), head_.losses);
    double sum = 0;
    for (const float loss : losses) sum += static_cast<double>(loss);
    return sum * static_cast<double>(scale);
}

void Tuner::update(TrainedParameter& parameter, double factor) {
    if (!all_finite(backend_.ops(), parameter.gradient)) {
        throw Error("step " + std::to_string(steps_done_ + 1) + ": the gradient of " + parameter.name +
                    " is not finite: resume from the last checkpoint with a smaller --lr or --code-lr");
    }
    AdamSettings adam;
    adam.rate = static_cast<float>(factor) * settings_.rate;
    adam.beta1 = settings_.beta1;
    adam.beta2 = settings_.beta2;
    adam.lamb = settings_.lamb;
    adam.step = steps_done_ + 1;
    backend_.ops().adam(parameter.value, parameter.first_moment, parameter.second_moment, parameter.gradient, adam);
    if (const auto copy = compute_copy_.find(parameter.name); copy != compute_copy_.end()) {
        backend_.ops().convert(copy->second, parameter.value);
    }
}

void Tuner::refuse_loss() {
    Ops& ops = backend_.ops();
    std::string where = find_not_finite(ops, teacher_);
    if (!where.empty()) where = "the teacher's " + where;
    if (where.empty()) where = find_not_finite(ops, student_);
    for (std::int64_t i = 0; i <= student_.config.layers && where.empty(); ++i) {
        for (std::int64_t micro = 0; micro < micro_batches_ && where.empty(); ++micro) {
            if (all_finite(ops, hidden(micro, i))) continue;
            where = i == 0 ? "the embedded text" : "the output of block " + std::to_string(i - 1);
        }
    }
    throw Error("step " + std::to_string(steps_done_ + 1) + ": the loss is not finite" +
                (where.empty() ? "" : ", and neither is " + where) +
                ": resume from the last checkpoint with a smaller --lr or --code-lr");
}

void Tuner::update_block(std::int64_t i, StepReport& report, double factor) {
    BlockState& block = blocks_[static_cast<std::size_t>(i)];
    for (std::size_t j = 0; j < matrices_per_block; ++j) {
        Matrix& matrix = student_.blocks[static_cast<std::size_t>(i)].matrices[j];
        MatrixState& state = block.matrices[j];
        if (!matrix.quantized) continue;
        const double start = now();
        std::vector<Tensor> gradients;
        for (const TrainedParameter& parameter : state.continuous) gradients.push_back(parameter.gradient);
        matrix.quantized->backward(backend_.ops(), gradients, gradients_.weights[j]);
        for (TrainedParameter& parameter : state.continuous) update(parameter, factor);
        const double middle = now();
        report.p_seconds += middle - start;
        if (settings_.strategy == Strategy::continuous) continue;
        const VReport v =
            v_step(backend_, matrix, state.v, v_scratch_, settings_, gradients_.weights[j], factor, steps_done_ + 1);
        report.groups += v.groups;
        report.selected += v.selected;
        report.changed += v.changed;
        report.v_seconds += now() - middle;
    }
    for (TrainedParameter& parameter : block.dense) update(parameter, factor);
}

void Tuner::update_dense(double factor) {
    for (TrainedParameter& parameter : dense_) update(parameter, factor);
}

StepReport Tuner::step(std::span<const std::vector<std::uint32_t>> sequences) {
    Ops& ops = backend_.ops();
    StepReport report;
    const double factor = rate_factor(settings_, steps_done_);
    report.rate = factor * static_cast<double>(settings_.rate);
    const std::int64_t layers = student_.config.layers;
    const double start = now();
    for (TrainedParameter& parameter : dense_) ops.fill_zero(parameter.gradient);

    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
        upload_micro_batch(sequences, micro);
        teacher_forward(micro);
    }
    backend_.synchronize();
    const double teacher_done = now();
    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
        ops.embedding_forward(hidden(micro, 0), student_.embedding, tokens_[static_cast<std::size_t>(micro)]);
    }
    for (std::int64_t i = 0; i < layers; ++i) {
        prepare_block(ops, student_, i);
        for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
            block_forward(ops, student_, student_.blocks[static_cast<std::size_t>(i)], hidden(micro, i + 1),
                          hidden(micro, i), activations(micro, i), micro_);
        }
    }
    backend_.synchronize();
    const double forward_done = now();
    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) report.loss += distillation(micro);
    if (!std::isfinite(report.loss)) refuse_loss();
    const double loss_done = now();
    for (std::int64_t i = layers - 1; i >= 0; --i) {
        const Block& block = student_.blocks[static_cast<std::size_t>(i)];
        // The forward pass ends on the last block, whose weights and (kept or not) activations are still there.
        if (i != layers - 1) prepare_block(ops, student_, i);
        ops.fill_zero(gradients_.attention_norm);
        ops.fill_zero(gradients_.mlp_norm);
        for (const Tensor& bias : gradients_.biases) {
            if (!bias.empty()) ops.fill_zero(bias);
        }
        for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
            const Tensor d_hidden = d_hidden_[static_cast<std::size_t>(micro)];
            if (!keep_) {
                // The block's output is overwritten by the same bits.
                block_forward(ops, student_, block, hidden(micro, i + 1), hidden(micro, i), activations(micro, i),
                              micro_);
            }
            block_backward(ops, student_, block, d_hidden, hidden(micro, i), activations(micro, i), gradients_,
                           backward_, micro_, micro > 0);
        }
        backend_.synchronize();
        update_block(i, report, factor);
    }
    if (settings_.train_dense) {
        for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
            ops.embedding_backward(dense_[0].gradient, d_hidden_[static_cast<std::size_t>(micro)],
                                   tokens_[static_cast<std::size_t>(micro)]);
        }
    }
    const double backward_done = now();
    update_dense(factor);
    backend_.synchronize();
    const double end = now();

    report.p_seconds += end - backward_done;
    report.teacher_seconds = teacher_done - start;
    report.forward_seconds = forward_done - teacher_done;
    report.loss_seconds = loss_done - forward_done;
    report.backward_seconds = end - loss_done - report.p_seconds - report.v_seconds;
    report.seconds = end - start;
    report.step = ++steps_done_;
    loss_ = report.loss;
    return report;
}

}  // namespace pvtune
