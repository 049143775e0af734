#include "host/calibrate/calibrate.h"

#include "host/model/embedding.h"
#include "host/quant/quantize_matrix.h"
#include "host/quant/random.h"
#include "io/error.h"
#include "io/output_file.h"

#include <unistd.h>
#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>

namespace pvtune {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The distinct inputs of a block's matrices, and which matrix reads which.
constexpr std::array<MatrixIndex, 4> inputs{query, output, gate, down};
constexpr std::array<std::size_t, matrices_per_block> input_of{0, 0, 0, 1, 2, 2, 3};

struct Calibration {
    Backend& backend;
    const CalibrateJob& job;
    ModelConfig config;
    Model model;  ///< one block
    BlockWork work;
    BlockTuneState tune_state;
    std::array<Tensor, inputs.size()> hessians;

    Calibration(Backend& device, const CalibrateJob& wanted, ModelConfig model_config)
        : backend(device), job(wanted), config(std::move(model_config)) {
        const CalibrateSettings& settings = job.settings;
        model = allocate_single_block(backend, config, settings.precision, settings.length);
        work = allocate_block_work(backend, model, {settings.sequences_together(), settings.length}, true);
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            const std::int64_t width = model.blocks.front().matrices[inputs[i]].columns;
            hessians[i] = backend.arena().allocate("Hessians", DType::f32, {width, width});
        }
    }

    template <class Body>
    void for_parts(const Body& body) {
        const std::int64_t together = job.settings.sequences_together();
        for (std::int64_t first = 0; first < job.settings.sequences; first += together) {
            const std::int64_t count = std::min(together, job.settings.sequences - first);
            body(first, count, first_sequences(work, count));
        }
    }

    /// states = block(states), sequence by sequence.
    void forward(ActivationStream& states) {
        for_parts([&](std::int64_t first, std::int64_t count, const BlockWork& part) {
            states.read(first, count, part.in);
            block_forward(backend.ops(), model, model.blocks.front(), part.out, part.in, part.activations, part.batch);
            states.write(first, count, part.out);
        });
    }

    /// Hessians of what the unquantised block does with `states`; its outputs go to `targets` where they are wanted.
    void accumulate_hessians(ActivationStream& states, ActivationStream* targets) {
        for (const Tensor& hessian : hessians) backend.ops().fill_zero(hessian);
        for_parts([&](std::int64_t first, std::int64_t count, const BlockWork& part) {
            states.read(first, count, part.in);
            block_forward(backend.ops(), model, model.blocks.front(), part.out, part.in, part.activations, part.batch,
                          [&](MatrixIndex index, Tensor seen) {
                              backend.ops().hessian_accumulate(hessians[input_of[index]], seen);
                          });
            if (targets) targets->write(first, count, part.out);
        });
    }

    void quantize(CalibratedBlock& report, std::uint64_t block_seed) {
        Random seeds(block_seed);
        std::array<std::vector<float>, inputs.size()> values;
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            values[i].resize(static_cast<std::size_t>(hessians[i].elements()));
            backend.download(values[i].data(), hessians[i]);
            const auto stride = static_cast<std::size_t>(hessians[i].shape[1] + 1);
            for (std::size_t at = 0; at < values[i].size(); at += stride) {
                if (std::isfinite(values[i][at])) continue;
                throw Error(job.model->path() + ": the inputs of " + model.blocks.front().matrices[inputs[i]].name +
                            " are not finite: look at the model with pvtune eval, or use --precision f32");
            }
        }
        for (std::size_t i = 0; i < matrices_per_block; ++i) {
            Matrix& matrix = model.blocks.front().matrices[i];
            QuantizedMatrix done{matrix.name, matrix.rows, matrix.columns, 0, {}};
            const std::vector<float> weight = read_dense(*job.model, matrix.name, {matrix.rows, matrix.columns});
            matrix.quantized = quantize_matrix(backend, matrix.name, weight, matrix.rows, matrix.columns, job.spec,
                                               seeds.next(), values[input_of[i]], &done.report, job.settings.additive);
            done.bits = matrix.quantized->bits();
            report.matrices.push_back(std::move(done));
        }
    }
};

/// Hidden states behind the embedding.
void embed(const Calibration& run, ActivationStream& states) {
    const CalibrateJob& job = run.job;
    const ModelConfig& config = run.config;
    const std::int64_t length = job.settings.length;
    const std::vector<float> table =
        read_dense(*job.model, "model.embed_tokens.weight", {config.vocabulary, config.width});
    std::vector<float> rows(static_cast<std::size_t>(length * config.width));
    const float scale = embedding_scale(config, job.settings.precision);
    const Tensor part = first_sequences(run.work, 1).in;
    for (std::int64_t sequence = 0; sequence < job.settings.sequences; ++sequence) {
        for (std::int64_t t = 0; t < length; ++t) {
            const std::uint32_t token = job.tokens[static_cast<std::size_t>(sequence * length + t)];
            std::transform(table.begin() + token * config.width, table.begin() + (token + 1) * config.width,
                           rows.begin() + t * config.width, [&](float value) { return scale * value; });
        }
        upload_as(run.backend, part, rows);
        states.write(sequence, 1, part);
    }
}

/// job.folder(), which no other run writes to while this lives.
class WorkFolder {
public:
    explicit WorkFolder(const CalibrateJob& job) : path_(job.folder()) {
        std::error_code failed;
        std::filesystem::create_directories(path_, failed);
        if (failed) throw Error(path_ + ": cannot be made (" + failed.message() + "): choose another --out");
        descriptor_ = lock_folder(path_, path_);
    }
    ~WorkFolder() { ::close(descriptor_); }
    WorkFolder(const WorkFolder&) = delete;
    WorkFolder& operator=(const WorkFolder&) = delete;

    /// The folder and what this program puts there.
    void remove() const {
        remove_files([](const std::string& name) {
            return name.starts_with("block_") || name == states_file || name == targets_file;
        });
        std::error_code ignored;
        std::filesystem::remove(path_, ignored);  // stays where there is something else in it
    }
    /// Blocks of an earlier run, once there is one of this: a resume would refuse them, or take them for its own.
    void remove_blocks_but(const std::string& kept) const {
        remove_files([&](const std::string& name) { return name.starts_with("block_") && path_ + "/" + name != kept; });
    }

    static constexpr const char* states_file = "states.h5";
    static constexpr const char* targets_file = "targets.h5";

private:
    template <class Condition>
    void remove_files(const Condition& condition) const {
        std::error_code ignored;
        for (const auto& entry : std::filesystem::directory_iterator(path_, ignored)) {
            if (condition(entry.path().filename().string())) std::filesystem::remove(entry.path(), ignored);
        }
    }

    std::string path_;
    int descriptor_ = -1;
};

std::string block_file(const CalibrateJob& job, std::int64_t i) {
    std::string number = std::to_string(i);
    number.insert(0, number.size() < 4 ? 4 - number.size() : 0, '0');
    return job.folder() + "/block_" + number + ".h5";
}

void save_block(Calibration& run, const CalibratedBlock& report) {
    Backend& backend = run.backend;
    const Block& block = run.model.blocks.front();
    StoreWriter store(block_file(run.job, report.index), "calibrated block", run.job.command);
    store.set_text("/", "source", run.job.source);
    for (const QuantizedMatrix& done : report.matrices) {
        const auto matrix = std::find_if(block.matrices.begin(), block.matrices.end(),
                                         [&](const Matrix& other) { return other.name == done.name; });
        const std::string path = "/tensors/" + done.name;
        matrix->quantized->save(backend, store, path, false);
        store.set_real(path, "squared_error", done.report.squared_error);
        store.set_real(path, "squared_norm", done.report.squared_norm);
        store.set_real(path, "output_error", done.report.output_error);
        store.set_real(path, "output_norm", done.report.output_norm);
    }
    for (const auto& [name, tensor] : dense_parameters(block, run.config, report.index)) {
        std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
        backend.download(values.data(), tensor);
        store.write("/tensors/" + name, DType::f32, tensor.extents(), values.data());
    }
    store.commit();
}

/// The file of a finished block of this job.
StoreReader open_block(const CalibrateJob& job, std::int64_t i) {
    StoreReader store(block_file(job, i), "calibrated block");
    if (store.text("/", "source") == job.source) return store;
    throw Error(store.path() + ": is of a run with other inputs or flags: give the same, or remove " + job.folder() +
                " and start again without --resume");
}

/// A finished block of an earlier run, into the model.
CalibratedBlock load_block(Calibration& run, std::int64_t i) {
    const StoreReader store = open_block(run.job, i);
    CalibratedBlock report;
    report.index = i;
    report.resumed = true;
    Block& block = run.model.blocks.front();
    for (Matrix& matrix : block.matrices) {
        const std::string path = "/tensors/" + matrix.name;
        matrix.quantized = load_representation(run.backend, store, path);
        QuantizedMatrix done{matrix.name, matrix.rows, matrix.columns, matrix.quantized->bits(), {}};
        done.report.squared_error = store.real(path, "squared_error");
        done.report.squared_norm = store.real(path, "squared_norm");
        done.report.output_error = store.real(path, "output_error");
        done.report.output_norm = store.real(path, "output_norm");
        report.matrices.push_back(std::move(done));
    }
    for (const auto& [name, tensor] : dense_parameters(block, run.config, i)) {
        upload_as(run.backend, tensor, read_dense(store, name, tensor.extents()));
    }
    prepare_block(run.backend.ops(), run.model, 0);
    return report;
}

/// The model from the files of all blocks.
std::string assemble(Calibration& run, const QuantizeResult& result) {
    const CalibrateJob& job = run.job;
    StoreWriter store(job.out, "weights", job.command);
    store.set_text("/", "config", run.config.json);
    store.set_text("/", "quantization", quantization_json(job.spec, job.seed, job.source));
    store.set_text("/", "source_hash", job.model->content_hash());
    for (const TensorSpec& tensor : tensor_specs(run.config)) {
        if (!tensor.name.starts_with("model.layers.")) copy_tensor(*job.model, store, tensor);
    }
    for (std::int64_t i = 0; i < run.config.layers; ++i) {
        const StoreReader block = open_block(job, i);
        for (const TensorSpec& tensor : block_specs(run.config, i)) {
            const std::string path = "/tensors/" + tensor.name;
            if (tensor.block_matrix) {
                const auto backend = make_cpu_backend({});
                load_representation(*backend, block, path)->save(*backend, store, path, false);
            } else {
                write_trained(store, path, job.model->info(path), read_dense(block, tensor.name, tensor.shape));
            }
        }
    }
    store.set_real("/", "relative_mse", result.total.relative_mse());
    return store.commit();
}

}  // namespace

std::int64_t CalibrateSettings::sequences_together() const {
    constexpr std::int64_t tokens_together = 4096;
    return std::clamp<std::int64_t>(tokens_together / length, 1, std::min(sequences, block.batch));
}

void plan_calibration(Backend& planning, const ModelConfig& config, const QuantizationSpec& spec,
                      const CalibrateSettings& settings) {
    CalibrateJob job;
    job.settings = settings;
    const Calibration run(planning, job, config);
    // Of the block at work; the matrix that is made beside the one of the block before it is part of the working
    // copies.
    const Block& block = run.model.blocks.front();
    const auto tuning = [&](std::int64_t elements) {
        planning.arena().allocate("block tuning", DType::f32, {elements});
    };
    for (const Matrix& matrix : block.matrices) {
        const auto quantized = allocate_quantized(planning, matrix.rows, matrix.columns, spec);
        for (const ContinuousParameter& parameter : quantized->parameters()) {
            tuning(3 * parameter.value.elements());  // gradient and moments
        }
    }
    for (const auto& [name, tensor] : dense_parameters(block, config, 0)) tuning(2 * tensor.elements());  // moments
}

bool has_finished_blocks(const CalibrateJob& job) { return std::filesystem::exists(block_file(job, 0)); }

QuantizeResult calibrate_model(Backend& backend, const CalibrateJob& job,
                               const std::function<void(const CalibratedBlock&)>& progress) {
    const CalibrateSettings& settings = job.settings;
    Calibration run(backend, job, read_config(*job.model));
    const ModelConfig& config = run.config;
    const WorkFolder folder(job);

    const std::int64_t bytes = settings.sequences * settings.length * config.width * size_of(settings.precision);
    const bool in_files = 2 * bytes > settings.activation_memory;
    const auto stream = [&](const char* name) {
        return std::make_unique<ActivationStream>(backend, settings.precision, settings.sequences, settings.length,
                                                  config.width, in_files ? job.folder() + "/" + name : std::string());
    };
    const auto states = stream(WorkFolder::states_file);    // of the quantised model
    const auto targets = stream(WorkFolder::targets_file);  // of the unquantised one, or of the unquantised block
    embed(run, *states);
    const bool follow_dense = settings.dense_targets && settings.block.epochs > 0;
    if (follow_dense) embed(run, *targets);

    QuantizeResult result;
    Random seeds(job.seed);
    for (std::int64_t i = 0; i < config.layers; ++i) {
        const std::uint64_t block_seed = seeds.next();
        read_single_block(backend, run.model, *job.model, i);
        CalibratedBlock report;
        const bool finished = job.resume && std::filesystem::exists(block_file(job, i));
        auto start = std::chrono::steady_clock::now();
        if (follow_dense) run.forward(*targets);
        if (finished) {
            report = load_block(run, i);
        } else {
            report.index = i;
            run.accumulate_hessians(*states, follow_dense ? nullptr : targets.get());
            report.hessian_seconds = seconds_since(start);
            start = std::chrono::steady_clock::now();
            run.quantize(report, block_seed);
            report.quantize_seconds = seconds_since(start);
            start = std::chrono::steady_clock::now();
            report.tuning = tune_block(backend, run.model, i, run.work, run.tune_state, *states, *targets,
                                       settings.sequences, settings.block);
            // A run that goes on and one that resumes see the same values.
            const Block& block = run.model.blocks.front();
            for (std::size_t m = 0; m < matrices_per_block; ++m) {
                block.matrices[m].quantized->round_as_stored(backend);
                report.matrices[m].bits = block.matrices[m].quantized->bits();
            }
            prepare_block(backend.ops(), run.model, 0);
            report.tune_seconds = seconds_since(start);
            save_block(run, report);
            if (i == 0) folder.remove_blocks_but(block_file(job, i));
        }
        start = std::chrono::steady_clock::now();
        if (i + 1 < config.layers) run.forward(*states);
        backend.synchronize();
        report.forward_seconds = seconds_since(start);
        for (const QuantizedMatrix& matrix : report.matrices) {
            result.bits += matrix.bits;
            result.total.squared_error += matrix.report.squared_error;
            result.total.squared_norm += matrix.report.squared_norm;
            result.total.output_error += matrix.report.output_error;
            result.total.output_norm += matrix.report.output_norm;
            result.total.seconds += matrix.report.seconds;
        }
        progress(report);
    }
    result.content_hash = assemble(run, result);
    folder.remove();
    return result;
}

}  // namespace pvtune
