#include "host/tune/hidden_states.h"

namespace pvtune {

HiddenStates::HiddenStates(Backend& backend, DType dtype, std::int64_t micro_batches, std::int64_t layers,
                           std::int64_t tokens, std::int64_t width, bool offload)
    : backend_(&backend), layers_(layers), offload_(offload) {
    const auto state = [&](Arena& arena, const char* name) { return arena.allocate(name, dtype, {tokens, width}); };
    for (std::int64_t i = 0; i < micro_batches * (layers + 1); ++i) {
        (offload ? host_ : device_).push_back(state(offload ? backend.host_arena() : backend.arena(), "block inputs"));
    }
    if (!offload) return;
    for (std::int64_t i = 0; i < micro_batches * 2; ++i) device_.push_back(state(backend.arena(), "block inputs"));
    discarded_ = state(backend.arena(), "block inputs");
}

Tensor HiddenStates::at(std::int64_t micro, std::int64_t layer) const {
    return device_[static_cast<std::size_t>(offload_ ? micro * 2 + layer % 2 : micro * (layers_ + 1) + layer)];
}

Tensor HiddenStates::discarded(std::int64_t micro, std::int64_t layer) const {
    return offload_ ? discarded_ : at(micro, layer);
}

void HiddenStates::begin_layer(std::int64_t layer) {
    if (offload_) backend_->wait_for(leaving_[static_cast<std::size_t>(layer % 2)]);
}

void HiddenStates::written(std::int64_t micro, std::int64_t layer) {
    if (!offload_) return;
    const Tensor host = host_[static_cast<std::size_t>(micro * (layers_ + 1) + layer)];
    leaving_[static_cast<std::size_t>(layer % 2)] = backend_->start_download(host, at(micro, layer));
}

void HiddenStates::fetch(std::int64_t layer) {
    if (!offload_) return;
    // What was last written into these slots may still be leaving them.
    begin_layer(layer);
    for (std::int64_t i = layer; i < static_cast<std::int64_t>(host_.size()); i += layers_ + 1) {
        coming_[static_cast<std::size_t>(layer % 2)] =
            backend_->start_upload(at(i / (layers_ + 1), layer), host_[static_cast<std::size_t>(i)]);
    }
}

void HiddenStates::await(std::int64_t layer) {
    if (offload_) backend_->wait_for(coming_[static_cast<std::size_t>(layer % 2)]);
}

}  // namespace pvtune
