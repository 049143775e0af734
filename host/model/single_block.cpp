#include "host/model/single_block.h"

namespace pvtune {

Model allocate_single_block(Backend& backend, const ModelConfig& config, DType precision, std::int64_t length) {
    Model model;
    model.config = config;
    model.precision = precision;
    model.residency = Residency::one_block;
    Arena& arena = backend.arena();
    Block block;
    for (const TensorSpec& spec : block_specs(config, 0)) {
        if (spec.norm >= 0) {
            block.norms[static_cast<std::size_t>(spec.norm)] =
                arena.allocate("norms and biases", DType::f32, {spec.shape[0]});
            continue;
        }
        Matrix& matrix = block.matrices[static_cast<std::size_t>(spec.matrix)];
        if (!spec.block_matrix) {
            matrix.bias = arena.allocate("norms and biases", DType::f32, {spec.shape[0]});
            continue;
        }
        matrix.rows = spec.shape[0];
        matrix.columns = spec.shape[1];
        matrix.weight = arena.allocate("block weights", precision, {matrix.rows, matrix.columns});
    }
    model.blocks.push_back(std::move(block));
    make_rotary_tables(backend, model, length);
    return model;
}

void read_single_block(Backend& backend, Model& model, const StoreReader& store, std::int64_t i) {
    Block& block = model.blocks.front();
    block.layer = i;
    for (const TensorSpec& spec : block_specs(model.config, i)) {
        if (!spec.block_matrix) continue;
        Matrix& matrix = block.matrices[static_cast<std::size_t>(spec.matrix)];
        matrix.name = spec.name;
        matrix.quantized.reset();
        upload_as(backend, matrix.weight, read_dense(store, spec.name, spec.shape));
    }
    for (const auto& [name, tensor] : dense_parameters(block, model.config, i)) {
        upload_as(backend, tensor, read_dense(store, name, tensor.extents()));
    }
}

}  // namespace pvtune
