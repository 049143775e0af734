#include "host/model/single_block.h"

#include <algorithm>

namespace pvtune {

std::vector<TensorSpec> block_specs(const ModelConfig& config, std::int64_t i) {
    std::vector<TensorSpec> specs = tensor_specs(config);
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    std::erase_if(specs, [&](const TensorSpec& spec) { return !spec.name.starts_with(prefix); });
    return specs;
}

Model allocate_single_block(Backend& backend, const ModelConfig& config, DType precision, std::int64_t length) {
    Model model;
    model.config = config;
    model.precision = precision;
    model.residency = Residency::one_block;
    Arena& arena = backend.arena();
    Block block;
    block.attention_norm = arena.allocate("norms and biases", DType::f32, {config.width});
    block.mlp_norm = arena.allocate("norms and biases", DType::f32, {config.width});
    std::size_t index = 0;
    for (const TensorSpec& spec : block_specs(config, 0)) {
        if (spec.block_matrix) {
            Matrix& matrix = block.matrices[index++];
            matrix.rows = spec.shape[0];
            matrix.columns = spec.shape[1];
            matrix.weight = arena.allocate("block weights", precision, {matrix.rows, matrix.columns});
        } else if (spec.name.ends_with(".bias")) {
            block.matrices[index - 1].bias = arena.allocate("norms and biases", DType::f32, {spec.shape[0]});
        }
    }
    model.blocks.push_back(std::move(block));
    make_rotary_tables(backend, model, length);
    return model;
}

void read_single_block(Backend& backend, Model& model, const StoreReader& store, std::int64_t i) {
    Block& block = model.blocks.front();
    std::size_t index = 0;
    for (const TensorSpec& spec : block_specs(model.config, i)) {
        if (!spec.block_matrix) continue;
        Matrix& matrix = block.matrices[index++];
        matrix.name = spec.name;
        matrix.quantized.reset();
        upload_as(backend, matrix.weight, read_dense(store, spec.name, spec.shape));
    }
    for (const auto& [name, tensor] : dense_parameters(block, model.config, i)) {
        upload_as(backend, tensor, read_dense(store, name, tensor.extents()));
    }
}

std::vector<std::pair<std::string, Tensor>> dense_parameters(const Block& block, const ModelConfig& config,
                                                             std::int64_t i) {
    std::vector<std::pair<std::string, Tensor>> parameters;
    std::size_t index = 0;
    for (const TensorSpec& spec : block_specs(config, i)) {
        if (spec.block_matrix) {
            ++index;
        } else if (spec.name.ends_with(".bias")) {
            parameters.emplace_back(spec.name, block.matrices[index - 1].bias);
        } else {
            parameters.emplace_back(spec.name, index == 0 ? block.attention_norm : block.mlp_norm);
        }
    }
    return parameters;
}

}  // namespace pvtune
