#include "host/tune/tuner.h"

#include "host/model/embedding.h"
#include "host/tune/subspace.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pvtune {

namespace {

bool same_block_shapes(const ModelConfig& a, const ModelConfig& b) {
    return a.width == b.width && a.intermediate == b.intermediate && a.heads == b.heads && a.kv_heads == b.kv_heads &&
           a.head_dim == b.head_dim && a.head_norms == b.head_norms && a.branch_norms == b.branch_norms;
}

enum Phase { teacher_phase, forward_phase, loss_phase, backward_phase, p_phase, v_phase, measure_phase, phases };

}  // namespace

Tuner::Tuner(Backend& backend, const TuneSettings& settings, Model student, Model teacher, const TunerMemory& memory)
    : backend_(backend),
      settings_(settings),
      student_(std::move(student)),
      teacher_(std::move(teacher)),
      offload_(memory.offload_inputs) {
    if (student_.config.width != teacher_.config.width || student_.config.vocabulary != teacher_.config.vocabulary) {
        throw Error("the teacher has a width of " + std::to_string(teacher_.config.width) + " and a vocabulary of " +
                    std::to_string(teacher_.config.vocabulary) + ", the model of " +
                    std::to_string(student_.config.width) + " and " + std::to_string(student_.config.vocabulary) +
                    ": give the model that was quantised as --teacher");
    }
    assert(student_.residency == Residency::one_block);  // else nothing would dequantise what the steps change
    micro_ = {settings.sequences_together(), settings.length};
    micro_batches_ = settings.batch / micro_.sequences;
    if (memory.activations == Activations::automatic) {
        Arena plan;
        const auto first = allocate_activations(plan, student_.config, student_.precision, micro_);
        const std::int64_t shared = first.normed.bytes() + first.activated.bytes();
        const std::int64_t all = (plan.bytes() - shared) * student_.config.layers * micro_batches_ + shared;
        keep_ = all < backend.memory_limit() / 4;
    } else {
        keep_ = memory.activations == Activations::keep;
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
        teacher_hidden_.push_back(state("teacher's last hidden states"));
        d_hidden_.push_back(state("gradient of hidden states"));
    }
    hidden_ = {backend_, precision, micro_batches_, config.layers, micro_.tokens(), config.width, offload_};
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
    if (settings_.strategy == Strategy::calibration_only) {
        blocks_.resize(student_.blocks.size());
        return allocate_record();
    }
    check_subspace(student_, settings_);
    gradients_ = allocate_gradients(arena, student_);
    if (settings_.moves_codes()) v_scratch_ = allocate_v_scratch(arena, student_, settings_);

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
            if (!settings_.moves_codes()) continue;
            matrix_state.v = allocate_v_state(arena, matrix, settings_);
            matrix_state.budget = v_budget(matrix.quantized->groups(), settings_);
        }
        if (settings_.train_dense) {
            const auto parameters = dense_parameters(block, config, block.layer);
            const std::vector<Tensor> gradients = dense_gradients(gradients_, config);
            for (std::size_t i = 0; i < parameters.size(); ++i) {
                state_of_block.dense.push_back(trained(parameters[i].first, parameters[i].second, gradients[i]));
            }
        }
        blocks_.push_back(std::move(state_of_block));
    }
    if (!settings_.train_dense) return allocate_record();
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
    allocate_record();
}

TrainedParameter Tuner::trained(const std::string& name, Tensor value, Tensor gradient) {
    Tensor shaped = value;
    shaped.data = gradient.data;
    const auto moment = [&] {
        Tensor tensor = value;
        tensor.data = backend_.arena().allocate("Adam moments", DType::f32, {value.elements()}).data;
        return tensor;
    };
    return {name, value, shaped, moment(), moment(), {}};
}

void Tuner::start(const StoreReader& student_store) {
    for (const auto& [name, compute] : compute_copy_) {
        const std::vector<float> values = read_dense(student_store, name, compute.extents());
        const auto at = std::find_if(dense_.begin(), dense_.end(),
                                     [&](const TrainedParameter& parameter) { return parameter.name == name; });
        backend_.upload(at->value, values.data());
    }
    for_moving([&](const Matrix& matrix, const MatrixState& state) {
        start_v_state(backend_.ops(), matrix, state.v, v_scratch_);
    });
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

void Tuner::teacher_forward() {
    Ops& ops = backend_.ops();
    const std::int64_t layers = teacher_.config.layers;
    fetch_block(backend_, teacher_, 0);
    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
        const auto index = static_cast<std::size_t>(micro);
        embed(ops, teacher_, teacher_hidden_[index], tokens_[index]);
    }
    for (std::int64_t i = 0; i < layers; ++i) {
        if (i + 1 < layers) fetch_block(backend_, teacher_, i + 1);
        await_block(backend_, teacher_, i);
        for (const Tensor state : teacher_hidden_) {
            block_forward(ops, teacher_, teacher_.blocks[static_cast<std::size_t>(i)], state, state,
                          teacher_activations_, micro_);
        }
    }
}

void Tuner::student_forward() {
    Ops& ops = backend_.ops();
    const std::int64_t layers = student_.config.layers;
    hidden_.begin_layer(0);
    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
        embed(ops, student_, hidden_.at(micro, 0), tokens_[static_cast<std::size_t>(micro)]);
        hidden_.written(micro, 0);
    }
    for (std::int64_t i = 0; i < layers; ++i) {
        prepare_block(ops, student_, i);
        hidden_.begin_layer(i + 1);
        for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
            block_forward(ops, student_, student_.blocks[static_cast<std::size_t>(i)], hidden_.at(micro, i + 1),
                          hidden_.at(micro, i), activations(micro, i), micro_);
            hidden_.written(micro, i + 1);
        }
    }
}

void Tuner::distillation(std::int64_t micro) {
    const auto index = static_cast<std::size_t>(micro);
    HeadGradients gradients;
    if (!dense_.empty()) {
        gradients.head = dense_[student_.config.tied ? 0 : 1].gradient;
        gradients.final_norm = dense_.back().gradient;
    }
    const auto scale = 1.0F / static_cast<float>(micro_.tokens() * micro_batches_);
    HeadBuffers buffers = head_;
    buffers.losses = losses_.rows(micro * micro_.tokens(), micro_.tokens());
    distill(backend_.ops(), student_, teacher_, buffers, hidden_.at(micro, student_.config.layers),
            teacher_hidden_[index], d_hidden_[index], gradients, scale);
}

void Tuner::update(TrainedParameter& parameter, double factor) {
    AdamSettings adam;
    adam.rate = static_cast<float>(factor) * settings_.rate;
    adam.beta1 = settings_.beta1;
    adam.beta2 = settings_.beta2;
    adam.lamb = settings_.lamb;
    adam.step = steps_done_ + 1;
    const auto copy = compute_copy_.find(parameter.name);
    // A gradient that is not finite changes nothing, so that what made it so can still be found.
    backend_.ops().sum_of_squares(parameter.gradient_squares, parameter.gradient);
    backend_.ops().adam(parameter.value, parameter.first_moment, parameter.second_moment, parameter.gradient,
                        copy == compute_copy_.end() ? Tensor{} : copy->second, parameter.gradient_squares, adam);
}

void Tuner::update_block(std::int64_t i, double factor) {
    BlockState& block = blocks_[static_cast<std::size_t>(i)];
    for (std::size_t j = 0; j < matrices_per_block; ++j) {
        Matrix& matrix = student_.blocks[static_cast<std::size_t>(i)].matrices[j];
        MatrixState& state = block.matrices[j];
        if (!matrix.quantized) continue;
        backend_.enter_phase(p_phase, "P step");
        std::vector<Tensor> gradients;
        for (const TrainedParameter& parameter : state.continuous) gradients.push_back(parameter.gradient);
        matrix.quantized->backward(backend_.ops(), gradients, gradients_.weights[j]);
        for (TrainedParameter& parameter : state.continuous) update(parameter, factor);
        if (!settings_.moves_codes()) continue;
        backend_.enter_phase(v_phase, "V step");
        const Tensor mean = state.v.mean_gradient;
        if (!mean.empty()) {
            backend_.ops().add_scaled(mean, gradients_.weights[j], 1.0F / static_cast<float>(settings_.v_every));
        }
        if (!v_step_now()) continue;
        const std::int64_t v_update = (steps_done_ + 1) / settings_.v_every;
        const auto index = static_cast<std::int64_t>(i * matrices_per_block + static_cast<std::int64_t>(j));
        v_step(backend_.ops(), matrix, state.v, v_scratch_, settings_,
               {mean.empty() ? gradients_.weights[j] : mean, factor, v_update, seed_of(settings_.seed, v_update, index),
                state.budget});
        if (!mean.empty()) backend_.ops().fill_zero(mean);
    }
    backend_.enter_phase(p_phase, "P step");
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
    backend_.enter_phase(teacher_phase, "teacher");
    for (TrainedParameter& parameter : dense_) ops.fill_zero(parameter.gradient);

    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
        upload_micro_batch(sequences, micro);
    }
    teacher_forward();
    backend_.enter_phase(forward_phase, "forward");
    student_forward();
    backend_.enter_phase(loss_phase, "loss");
    for (std::int64_t micro = 0; micro < micro_batches_; ++micro) distillation(micro);
    const bool moves = settings_.strategy != Strategy::calibration_only;
    for (std::int64_t i = layers - 1; i >= 0 && moves; --i) {
        backend_.enter_phase(backward_phase, "backward");
        if (i > 0) hidden_.fetch(i - 1);
        hidden_.await(i);
        const Block& block = student_.blocks[static_cast<std::size_t>(i)];
        // The forward pass ends on the last block, whose weights and (kept or not) activations are still there.
        if (i != layers - 1) prepare_block(ops, student_, i);
        clear_dense_gradients(ops, gradients_);
        for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
            const Tensor d_hidden = d_hidden_[static_cast<std::size_t>(micro)];
            if (!keep_) {
                block_forward(ops, student_, block, hidden_.discarded(micro, i + 1), hidden_.at(micro, i),
                              activations(micro, i), micro_);
            }
            block_backward(ops, student_, block, d_hidden, hidden_.at(micro, i), activations(micro, i), gradients_,
                           backward_, micro_, micro > 0);
        }
        update_block(i, factor);
    }
    backend_.enter_phase(backward_phase, "backward");
    if (!dense_.empty()) {
        for (std::int64_t micro = 0; micro < micro_batches_; ++micro) {
            const auto index = static_cast<std::size_t>(micro);
            embed_backward(ops, student_, dense_[0].gradient, d_hidden_[index], tokens_[index]);
        }
    }
    backend_.enter_phase(p_phase, "P step");
    update_dense(factor);

    const std::vector<double> seconds = backend_.end_phases(phases);
    report.teacher_seconds = seconds[teacher_phase];
    report.forward_seconds = seconds[forward_phase];
    report.loss_seconds = seconds[loss_phase];
    report.backward_seconds = seconds[backward_phase];
    report.p_seconds = seconds[p_phase];
    report.v_seconds = seconds[v_phase];
    report.seconds = std::accumulate(seconds.begin(), seconds.end(), 0.0);
    read_record(report);
    if (report.v_step && settings_.measure_v) {
        backend_.enter_phase(measure_phase, "measured V step");
        report.measured_change = measure_v_steps();
        report.measure_seconds = backend_.end_phases(phases)[measure_phase];
        report.seconds += report.measure_seconds;
    }
    report.step = ++steps_done_;
    loss_ = report.loss;
    return report;
}

}  // namespace pvtune
