#include "host/model/model.h"
#include "io/error.h"

#include <algorithm>
#include <cassert>
#include <functional>
#include <map>

namespace pvtune {

namespace {

/// Makes a model's tensors. Where the data comes from (a file, or nowhere for a plan) is up to `fill` and `quantized`.
struct Builder {
    Backend& backend;
    Model& model;
    std::function<void(Tensor, const TensorSpec&)> fill, fill_host;
    std::function<std::unique_ptr<Representation>(const TensorSpec&)> quantized;
    std::function<bool(const TensorSpec&)> is_quantized;
    std::map<int, Tensor> shared_weights;  ///< by matrix of the block; streamed: by matrix and parity of the block

    Tensor dense(const TensorSpec& spec, DType dtype, const char* label) {
        Tensor tensor = spec.shape.size() == 1 ? backend.arena().allocate(label, dtype, {spec.shape[0]})
                                               : backend.arena().allocate(label, dtype, {spec.shape[0], spec.shape[1]});
        fill(tensor, spec);
        return tensor;
    }

    void matrix(Matrix& matrix, const TensorSpec& spec, int index, int parity) {
        matrix.name = spec.name;
        matrix.rows = spec.shape[0];
        matrix.columns = spec.shape[1];
        if (!is_quantized(spec) && model.residency == Residency::streamed) {
            Tensor& shared = shared_weights[2 * index + parity];
            if (shared.empty()) {
                shared =
                    backend.arena().allocate("weights of two blocks", model.precision, {matrix.rows, matrix.columns});
            }
            matrix.weight = shared;
            matrix.host_weight =
                backend.host_arena().allocate("block weights", model.precision, {matrix.rows, matrix.columns});
            fill_host(matrix.host_weight, spec);
            return;
        }
        if (!is_quantized(spec)) {
            matrix.weight = dense(spec, model.precision, "block weights");
            return;
        }
        matrix.quantized = quantized(spec);
        if (model.residency == Residency::codes) return;
        Tensor& shared = shared_weights[index];
        if (model.residency == Residency::all || shared.empty()) {
            shared = backend.arena().allocate("dequantised weights", model.precision, {matrix.rows, matrix.columns});
        }
        matrix.weight = shared;
    }

    void build() {
        const ModelConfig& config = model.config;
        const std::vector<TensorSpec> specs = tensor_specs(config);
        model.embedding = dense(specs.front(), model.precision, "embedding");
        model.blocks.resize(static_cast<std::size_t>(config.layers));
        for (std::int64_t i = 0; i < config.layers; ++i) {
            Block& block = model.blocks[static_cast<std::size_t>(i)];
            block.layer = i;
            for (const TensorSpec& spec : block_specs(config, i)) {
                if (spec.block_matrix) {
                    matrix(block.matrices[static_cast<std::size_t>(spec.matrix)], spec, spec.matrix,
                           static_cast<int>(i % 2));
                } else {
                    Tensor& part = spec.norm >= 0 ? block.norms[static_cast<std::size_t>(spec.norm)]
                                                  : block.matrices[static_cast<std::size_t>(spec.matrix)].bias;
                    part = dense(spec, DType::f32, "norms and biases");
                }
            }
        }
        model.final_norm = dense(specs[specs.size() - (config.tied ? 1 : 2)], DType::f32, "norms and biases");
        model.head = config.tied ? model.embedding : dense(specs.back(), model.precision, "head");
    }
};

/// The same into host memory.
void store_as(Tensor to, const std::vector<float>& values) {
    if (to.dtype == DType::f32) {
        std::copy(values.begin(), values.end(), to.as<float>());
    } else {
        std::transform(values.begin(), values.end(), to.as<bf16>(), to_bf16);
    }
}

}  // namespace

void make_rotary_tables(Backend& backend, Model& model, std::int64_t length) {
    const auto make = [&](RotaryTables& tables, const RotaryConfig& rotary, std::int64_t positions) {
        for (Tensor* table : {&tables.cosines, &tables.sines}) {
            *table = backend.arena().allocate("rotary tables", DType::f32, {positions, rotary.dimensions / 2});
        }
        if (backend.arena().planning()) return;
        const RotaryValues values = rotary_values(rotary, positions);
        backend.upload(tables.cosines, values.cosines.data());
        backend.upload(tables.sines, values.sines.data());
    };
    const ModelConfig& config = model.config;
    const bool two_sets = config.rotary.scaling == RotaryScaling::longrope;
    const std::int64_t original = config.rotary.original_positions;
    make(model.rotary, config.rotary, two_sets ? std::min(length, original) : length);
    if (two_sets && length > original) make(model.long_rotary, config.rotary, length);
    if (config.local_rotary.dimensions > 0) make(model.local_rotary, config.local_rotary, length);
}

RotaryTables rotary_rows(const Model& model, const Block& block, std::int64_t length, std::int64_t first,
                         std::int64_t count) {
    const ModelConfig& config = model.config;
    const bool beyond = !model.long_rotary.cosines.empty() && length > config.rotary.original_positions;
    const RotaryTables& tables = config.local(block.layer) ? model.local_rotary
                                 : beyond                  ? model.long_rotary
                                                           : model.rotary;
    return {tables.cosines.rows(first, count), tables.sines.rows(first, count)};
}

void upload_as(Backend& backend, Tensor to, const std::vector<float>& values) {
    if (to.dtype == DType::f32) return backend.upload(to, values.data());
    std::vector<bf16> narrow(values.size());
    std::transform(values.begin(), values.end(), narrow.begin(), to_bf16);
    backend.upload(to, narrow.data());
}

bool Model::quantized() const {
    return std::any_of(blocks.begin(), blocks.end(), [](const Block& block) {
        return std::any_of(block.matrices.begin(), block.matrices.end(),
                           [](const Matrix& matrix) { return matrix.quantized != nullptr; });
    });
}

Model load_model(Backend& backend, const StoreReader& store, DType precision, std::int64_t length, Residency residency,
                 const StoreReader* matrices) {
    Model model;
    model.config = read_config(store);
    model.precision = precision;
    model.residency = residency;
    Builder builder{
        backend,
        model,
        [&](Tensor tensor, const TensorSpec& spec) {
            if (!backend.arena().planning()) upload_as(backend, tensor, read_dense(store, spec.name, spec.shape));
        },
        [&](Tensor tensor, const TensorSpec& spec) {
            if (!backend.arena().planning()) store_as(tensor, read_dense(store, spec.name, spec.shape));
        },
        [&](const TensorSpec& spec) {
            if (residency == Residency::streamed) {
                throw Error(store.path() +
                            ": is quantised, only dense weights can be offloaded: use --offload none or inputs");
            }
            const StoreReader& from = matrices != nullptr ? *matrices : store;
            auto matrix = load_representation(backend, from, "/tensors/" + spec.name);
            if (matrix->rows() != spec.shape[0] || matrix->columns() != spec.shape[1]) {
                throw Error(from.path() + ": " + spec.name + " is " + std::to_string(matrix->rows()) + " x " +
                            std::to_string(matrix->columns()) + ", the config wants " + std::to_string(spec.shape[0]) +
                            " x " + std::to_string(spec.shape[1]));
            }
            return matrix;
        },
        [&](const TensorSpec& spec) {
            const std::string path = "/tensors/" + spec.name;
            return store.has(path) && store.is_group(path);
        },
        {}};
    builder.build();
    make_rotary_tables(backend, model, length);
    if (residency == Residency::all && !backend.arena().planning()) {
        for (Block& block : model.blocks) {
            for (Matrix& matrix : block.matrices) {
                if (matrix.quantized) matrix.quantized->dequantize(backend.ops(), matrix.weight);
            }
        }
    }
    return model;
}

void fetch_block(Backend& backend, Model& model, std::int64_t i) {
    for (const Matrix& matrix : model.blocks[static_cast<std::size_t>(i)].matrices) {
        if (matrix.host_weight.empty()) continue;
        model.fetches[static_cast<std::size_t>(i % 2)] = backend.start_upload(matrix.weight, matrix.host_weight);
    }
}

void await_block(Backend& backend, const Model& model, std::int64_t i) {
    // Copies end in order: the last matrix's stands for the block.
    backend.wait_for(model.fetches[static_cast<std::size_t>(i % 2)]);
}

void prepare_block(Ops& ops, Model& model, std::int64_t i) {
    assert(model.residency != Residency::codes || !model.quantized());
    if (model.residency == Residency::all) return;
    for (Matrix& matrix : model.blocks[static_cast<std::size_t>(i)].matrices) {
        if (matrix.quantized) matrix.quantized->dequantize(ops, matrix.weight);
    }
}

}  // namespace pvtune
