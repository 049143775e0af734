#include "host/common/python.h"
#include "host/export/export_model.h"
#include "host/export/partial_folder.h"
#include "io/partial_file.h"

#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t alignment = 32;  // of every tensor's data

std::int64_t aligned(std::int64_t offset) { return (offset + alignment - 1) / alignment * alignment; }

/// llama.cpp rotates neighbours in pairs where Hugging Face rotates the halves of a head: row (half, i) of a head of
/// the query and key matrices becomes row (i, half).
Bytes paired_rows(const Bytes& data, std::int64_t rows, std::int64_t heads) {
    const std::int64_t row_bytes = static_cast<std::int64_t>(data.size()) / rows;
    const std::int64_t half = rows / heads / 2;
    Bytes result(data.size());
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t head = row / (2 * half);
        const std::int64_t within = row % (2 * half);
        const std::int64_t to = head * 2 * half + within % half * 2 + within / half;
        std::copy_n(data.begin() + row * row_bytes, row_bytes, result.begin() + to * row_bytes);
    }
    return result;
}

std::int64_t rotated_heads(const ModelConfig& config, const std::string& name) {
    if (config.family != "llama" && config.family != "mistral") return 0;
    if (name.find(".self_attn.q_proj.") != std::string::npos) return config.heads;
    return name.find(".self_attn.k_proj.") != std::string::npos ? config.kv_heads : 0;
}

/// Llama 3.1's scaling is a tensor there: what each frequency is divided by.
std::vector<float> rotary_factors(const ModelConfig& config) {
    if (config.rotary.scaling != RotaryScaling::llama3) return {};
    RotaryConfig plain = config.rotary;
    plain.scaling = RotaryScaling::none;
    std::vector<float> factors = rotary_frequencies(plain, 1);
    const std::vector<float> scaled = rotary_frequencies(config.rotary, 1);
    for (std::size_t i = 0; i < factors.size(); ++i) factors[i] /= scaled[i];
    return factors;
}

const char* scaling_name(RotaryScaling scaling) {
    switch (scaling) {
        case RotaryScaling::none:
        case RotaryScaling::llama3:
            return "none";
        case RotaryScaling::linear:
            return "linear";
        case RotaryScaling::yarn:
            return "yarn";
        case RotaryScaling::longrope:
            return "longrope";
    }
    return "";
}

/// What scripts/gguf_header.py needs to know.
std::string header_request(const ExportPlan& plan, const ModelConfig& config, const std::vector<float>& factors) {
    Json tensors = Json::array();
    if (!factors.empty()) {
        tensors.push_back({{"name", "rope_freqs.weight"},
                           {"type", "F32"},
                           {"shape", {factors.size()}},
                           {"bytes", factors.size() * sizeof(float)}});
    }
    for (const ExportPlan::Tensor& tensor : plan.tensors) {
        const SafetensorsEntry& part = tensor.parts.at(0);
        tensors.push_back({{"name", part.name}, {"type", part.type}, {"shape", part.shape}, {"bytes", part.bytes}});
    }
    const Json sizes = {{"head_dim", config.head_dim},
                        {"heads", config.heads},
                        {"kv_heads", config.kv_heads},
                        {"width", config.width},
                        {"intermediate", config.intermediate},
                        {"layers", config.layers},
                        {"vocabulary", config.vocabulary},
                        {"max_positions", config.max_positions},
                        {"window", config.window},
                        {"rope_theta", config.rotary.theta},
                        {"rope_dimensions", config.rotary.dimensions},
                        {"rope_scaling", scaling_name(config.rotary.scaling)},
                        {"rope_factor", config.rotary.factor},
                        {"rms_epsilon", config.rms_epsilon}};
    return Json{{"config", Json::parse(config.json)}, {"sizes", sizes}, {"tensors", tensors}}.dump();
}

}  // namespace

ExportResult write_gguf(const ExportJob& job, const ExportPlan& plan,
                        const std::function<std::unique_ptr<Backend>()>& make_backend,
                        const std::function<void(const std::string&)>& progress) {
    const ModelConfig config = read_config(*job.model);
    const std::vector<float> factors = rotary_factors(config);
    PartialFile partial(job.out);
    OutputFile& file = partial.file();
    // Through this program: a script that outlives it when it is killed must not hold the file.
    const std::string header = run_python_script("gguf_header.py", {"--tokenizer-from", job.tokenizer_from},
                                                 header_request(plan, config, factors));
    file.write(0, std::as_bytes(std::span<const char>(header)));
    ExportResult result;
    std::int64_t offset = aligned(file.size());
    const auto append = [&](Bytes data) {
        data.resize(static_cast<std::size_t>(aligned(static_cast<std::int64_t>(data.size()))));
        file.write(offset, data);
        offset += static_cast<std::int64_t>(data.size());
    };
    if (!factors.empty()) append(to_bytes(factors));
    for (const ExportPlan::Tensor& tensor : plan.tensors) {
        Bytes data = convert_tensor(job, plan, tensor, make_backend, result.rounding).at(0);
        const std::int64_t heads = rotated_heads(config, tensor.source.name);
        if (heads > 0) data = paired_rows(data, tensor.source.shape[0], heads);
        append(std::move(data));
        progress(tensor.source.name);
    }
    result.bytes = file.size();
    check_free(job.out, false);
    partial.commit();
    return result;
}

}  // namespace pvtune
