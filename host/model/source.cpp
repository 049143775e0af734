#include "host/model/source.h"

namespace pvtune {

std::vector<SourceTensor> source_tensors(const ModelConfig& config) {
    std::vector<SourceTensor> sources;
    for (const TensorSpec& spec : tensor_specs(config)) {
        const bool joins = config.fused_projections && spec.block_matrix &&
                           (spec.matrix == key || spec.matrix == value || spec.matrix == up);
        if (joins) {
            sources.back().shape[0] += spec.shape[0];
            sources.back().parts.push_back(spec);
            continue;
        }
        std::string name = spec.name;
        if (config.fused_projections && spec.block_matrix && (spec.matrix == query || spec.matrix == gate)) {
            const char* fused = spec.matrix == query ? "self_attn.qkv_proj.weight" : "mlp.gate_up_proj.weight";
            name = name.substr(0, name.find(spec.matrix == query ? "self_attn." : "mlp.")) + fused;
        }
        const bool norm = spec.norm >= 0 || spec.name == "model.norm.weight";
        sources.push_back({name, spec.shape, {spec}, norm ? config.norm_offset : 0});
    }
    return sources;
}

}  // namespace pvtune
