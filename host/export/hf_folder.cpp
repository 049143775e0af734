#include "host/export/export_model.h"
#include "host/export/partial_folder.h"

#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

using Json = nlohmann::ordered_json;

/// The config that the model came with, with the type and the layout of what is written now.
std::string config_text(const ExportJob& job, const ExportPlan& plan) {
    Json config = Json::parse(read_config(*job.model).json);
    const char* type = job.dense == DType::f32 ? "float32" : job.dense == DType::bf16 ? "bfloat16" : "float16";
    config[config.contains("dtype") ? "dtype" : "torch_dtype"] = type;
    if (plan.matrices) config["quantization_config"] = plan.matrices->config(plan.dense_matrices());
    return config.dump(2) + "\n";
}

}  // namespace

ExportResult write_hf_folder(const ExportJob& job, const ExportPlan& plan,
                             const std::function<std::unique_ptr<Backend>()>& make_backend,
                             const std::function<void(const std::string&)>& progress) {
    PartialFolder folder(job.out);
    std::vector<SafetensorsEntry> entries;
    for (const ExportPlan::Tensor& tensor : plan.tensors)
        entries.insert(entries.end(), tensor.parts.begin(), tensor.parts.end());
    SafetensorsWriter weights(folder.partial(), job.out, std::move(entries));
    ExportResult result;
    for (const ExportPlan::Tensor& tensor : plan.tensors) {
        const std::vector<Bytes> data = convert_tensor(job, plan, tensor, make_backend, result.rounding);
        for (std::size_t i = 0; i < data.size(); ++i) weights.write(tensor.parts[i].name, data[i]);
        progress(tensor.source.name);
    }
    result.bytes = weights.finish();
    folder.write_text("config.json", config_text(job, plan));
    if (!job.tokenizer_from.empty())
        for (const std::string& file : tokenizer_files(job.tokenizer_from)) folder.copy(file);
    folder.commit();
    return result;
}

}  // namespace pvtune
