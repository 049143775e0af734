// What a tuning run keeps on disk: checkpoints, and the tuned model.

#include "host/tune/finite.h"
#include "host/tune/subspace.h"
#include "host/tune/tuner.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>

namespace pvtune {

namespace {

/// A file with a NaN could only be refused later; the one that is there before it is better.
void check_finite(Backend& backend, const std::string& path, Tensor tensor) {
    if (all_finite(backend, tensor)) return;
    throw Error(path +
                " is not finite, nothing was written: resume from the last checkpoint, if there is one, with a " +
                "smaller --lr, --code-lr or --subspace-lr");
}

void write_tensor(Backend& backend, StoreWriter& store, const std::string& path, Tensor tensor) {
    if (tensor.dtype == DType::f32 || tensor.dtype == DType::bf16) check_finite(backend, path, tensor);
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes()));
    backend.download(bytes.data(), tensor);
    store.write(path, tensor.dtype, tensor.extents(), bytes.data());
}

void read_tensor(Backend& backend, const StoreReader& store, const std::string& path, Tensor tensor) {
    if (!store.has(path)) throw Error(store.path() + ": has no " + path + ": start again without --resume");
    const TensorInfo info = store.info(path);
    if (info.dtype != tensor.dtype || info.shape != tensor.extents()) {
        throw Error(store.path() + ": " + path +
                    " has another shape or type than this run: start again without --resume");
    }
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes()));
    store.read(path, bytes.data(), info.bytes());
    backend.upload(tensor, bytes.data());
}

SettingsChange change_since(const StoreReader& checkpoint, const TuneSettings& now) {
    try {
        return settings_change(checkpoint.text("/", "settings"), now);
    } catch (const std::invalid_argument& error) {
        throw Error(checkpoint.path() + ": has " + error.what() + ": start again without --resume");
    }
}

/// What V steps remember of a matrix, by its name in the file.
std::vector<std::pair<const char*, Tensor>> kept(const VState& state) {
    std::vector<std::pair<const char*, Tensor>> tensors = {{"second_moment", state.second_moment},
                                                           {"straight_through", state.buffer},
                                                           {"mean_gradient", state.mean_gradient},
                                                           {"history", state.history}};
    std::erase_if(tensors, [](const auto& tensor) { return tensor.second.empty(); });
    return tensors;
}

}  // namespace

std::vector<const TrainedParameter*> Tuner::all_parameters() const {
    std::vector<const TrainedParameter*> all;
    for (const BlockState& block : blocks_) {
        for (const MatrixState& matrix : block.matrices) {
            for (const TrainedParameter& parameter : matrix.continuous) all.push_back(&parameter);
        }
        for (const TrainedParameter& parameter : block.dense) all.push_back(&parameter);
    }
    for (const TrainedParameter& parameter : dense_) all.push_back(&parameter);
    return all;
}

void Tuner::save_checkpoint(const std::string& path, const std::string& command, const std::string& source) const {
    StoreWriter store(path, "checkpoint", command);
    store.set_text("/", "config", student_.config.json);
    store.set_text("/", "settings", settings_json(settings_));
    store.set_text("/", "source", source);
    store.set_integer("/", "step", steps_done_);
    store.set_real("/", "loss", loss_);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        for (std::size_t j = 0; j < matrices_per_block; ++j) {
            const Matrix& matrix = student_.blocks[i].matrices[j];
            if (!matrix.quantized) continue;
            matrix.quantized->save(backend_, store, "/tensors/" + matrix.name, true);
            const MatrixState& state = blocks_[i].matrices[j];
            const std::string group = "/v/" + matrix.name;
            for (const auto& [name, tensor] : kept(state.v)) {
                write_tensor(backend_, store, group + "/" + name, tensor);
            }
            if (settings_.moves_codes()) store.set_integer(group, "budget", state.budget);
        }
    }
    for (const TrainedParameter* parameter : all_parameters()) {
        const std::string group = "/parameters/" + parameter->name;
        write_tensor(backend_, store, group + "/value", parameter->value);
        write_tensor(backend_, store, group + "/first_moment", parameter->first_moment);
        write_tensor(backend_, store, group + "/second_moment", parameter->second_moment);
    }
    store.commit();
}

std::string Tuner::load_checkpoint(const StoreReader& checkpoint, const std::string& source) {
    if (checkpoint.text("/", "source") != source) {
        throw Error(checkpoint.path() +
                    ": was made with another --model, --teacher, --tokens, --bos or --precision: give "
                    "the same, or start again without --resume");
    }
    const SettingsChange change = change_since(checkpoint, settings_);
    if (!change.others.empty()) {
        throw Error(checkpoint.path() + ": was written with " + change.others +
                    ": give the same flags, or start again without --resume");
    }
    steps_done_ = checkpoint.integer("/", "step");
    loss_ = checkpoint.real("/", "loss");
    const std::int64_t total = model_budget(student_, settings_);
    for_moving([&](const Matrix& matrix, MatrixState& state) {
        const std::string group = "/v/" + matrix.name;
        for (const auto& [name, tensor] : kept(state.v)) {
            read_tensor(backend_, checkpoint, group + "/" + name, tensor);
        }
        state.budget = checkpoint.integer(group, "budget");
        if (state.budget < 1 || state.budget > largest_budget(matrix.quantized->groups(), total, settings_)) {
            throw Error(checkpoint.path() + ": " + group + ": a budget of " + std::to_string(state.budget) +
                        " groups: the file is damaged, start again without --resume");
        }
    });
    for (const TrainedParameter* parameter : all_parameters()) {
        const std::string group = "/parameters/" + parameter->name;
        read_tensor(backend_, checkpoint, group + "/value", parameter->value);
        read_tensor(backend_, checkpoint, group + "/first_moment", parameter->first_moment);
        read_tensor(backend_, checkpoint, group + "/second_moment", parameter->second_moment);
        if (const auto copy = compute_copy_.find(parameter->name); copy != compute_copy_.end()) {
            backend_.ops().convert(copy->second, parameter->value);
        }
    }
    return change.rates;
}

std::vector<std::pair<std::string, std::string>> origin_of(const StoreReader& student) {
    std::vector<std::pair<std::string, std::string>> attributes;
    for (const char* name : {"quantization", "source_hash"}) {
        if (student.has_attribute("/", name)) attributes.emplace_back(name, student.text("/", name));
    }
    return attributes;
}

std::string Tuner::save_model(const std::string& path, const std::string& command,
                              const StoreReader& student_store) const {
    StoreWriter store(path, "weights", command);
    store.set_text("/", "config", student_.config.json);
    store.set_text("/", "settings", settings_json(settings_));
    store.set_integer("/", "step", steps_done_);
    for (const auto& [name, text] : origin_of(student_store)) store.set_text("/", name, text);
    std::map<std::string, const Representation*> quantized;
    for (const Block& block : student_.blocks) {
        for (const Matrix& matrix : block.matrices) {
            if (matrix.quantized) quantized[matrix.name] = matrix.quantized.get();
        }
    }
    std::map<std::string, Tensor> trained_values;
    for (const TrainedParameter* parameter : all_parameters()) trained_values[parameter->name] = parameter->value;

    for (const TensorSpec& spec : tensor_specs(student_.config)) {
        const std::string tensor_path = "/tensors/" + spec.name;
        if (const auto found = quantized.find(spec.name); found != quantized.end()) {
            found->second->save(backend_, store, tensor_path, false);
            continue;
        }
        const TensorInfo info = student_store.info(tensor_path);
        if (const auto found = trained_values.find(spec.name); found != trained_values.end()) {
            check_finite(backend_, spec.name, found->second);
            std::vector<float> values(static_cast<std::size_t>(info.elements()));
            backend_.download(values.data(), found->second);
            write_trained(store, tensor_path, info, values);
            continue;
        }
        std::vector<std::byte> bytes(static_cast<std::size_t>(info.bytes()));
        student_store.read(tensor_path, bytes.data(), info.bytes());
        store.write(tensor_path, info.dtype, info.shape, bytes.data());
    }
    return store.commit();
}

}  // namespace pvtune
