#include "host/bench/registry.h"

#include <algorithm>

namespace pvtune {

double bytes_of(std::initializer_list<Tensor> tensors) {
    double bytes = 0;
    for (const Tensor& tensor : tensors) bytes += static_cast<double>(tensor.bytes());
    return bytes;
}

void add_version(Registry& registry, BenchEntry entry) {
    const auto last = std::find_if(registry.rbegin(), registry.rend(),
                                   [&](const BenchEntry& present) { return present.op == entry.op; });
    registry.insert(last == registry.rend() ? registry.end() : last.base(), std::move(entry));
}

Registry bench_registry(const BenchSetting& setting) {
    Registry registry;
    add_model_entries(registry, setting);
    add_linear_entries(registry, setting);
    add_attention_entries(registry, setting);
    add_loss_entries(registry, setting);
    add_additive_entries(registry, setting);
    add_lattice_entries(registry, setting);
    add_scalar_entries(registry, setting);
    add_subspace_entries(registry, setting);
    add_calibration_entries(registry, setting);
    add_optimizer_entries(registry, setting);
    if (setting.on_cpu) {
        add_cpu_versions(registry, setting);
    } else {
        add_cuda_versions(registry, setting);
    }
    return registry;
}

}  // namespace pvtune
