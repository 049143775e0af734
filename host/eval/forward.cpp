#include "host/eval/forward.h"

#include "host/model/embedding.h"

namespace pvtune {

void forward(Backend& backend, Model& model, Tensor hidden, Tensor ids, const BlockActivations& activations,
             const Batch& batch) {
    const BlockActivations used = first_rows(activations, batch);
    embed(backend.ops(), model, hidden, ids);
    for (std::int64_t i = 0; i < model.config.layers; ++i) {
        prepare_block(backend.ops(), model, i);
        block_forward(backend.ops(), model, model.blocks[static_cast<std::size_t>(i)], hidden, hidden, used, batch);
    }
}

}  // namespace pvtune
