#include "host/export/export_model.h"

#include "host/export/partial_folder.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

std::string type_name(DType type) {
    if (type == DType::f32) return "F32";
    return type == DType::bf16 ? "BF16" : "F16";
}

std::unique_ptr<MatrixFormat> matrix_format(const ExportJob& job) {
    if (job.format == "hf-aqlm") return make_aqlm_format();
    if (job.format == "hf-gptq") return make_gptq_format(job.round_zeros);
    if (job.format == "gguf" && !job.dequantize) return make_gguf_format();
    return nullptr;
}

/// A tensor in the type of the dense ones. llama.cpp wants vectors in f32.
SafetensorsEntry dense_part(const ExportJob& job, const TensorSpec& spec) {
    const DType type = job.format == "gguf" && spec.shape.size() == 1 ? DType::f32 : job.dense;
    return {spec.name, type_name(type), spec.shape, TensorInfo{type, spec.shape}.bytes()};
}

Bytes narrowed(const std::string& model, const SafetensorsEntry& part, const std::vector<float>& values) {
    const auto to = [&]<class T>(T) {
        std::vector<T> result(values.size());
        std::transform(values.begin(), values.end(), result.begin(), from_float<T>);
        const auto bad =
            std::find_if(result.begin(), result.end(), [](T value) { return !std::isfinite(to_float(value)); });
        if (bad != result.end()) {
            const float value = values[static_cast<std::size_t>(bad - result.begin())];
            throw Error(model + ": " + part.name + " holds " + nlohmann::json(value).dump() + ", beyond " + part.type +
                        ": use --dtype bf16 or f32");
        }
        return to_bytes(result);
    };
    if (part.type == "F32") return to_bytes(values);
    return part.type == "BF16" ? to(bf16{}) : to(f16{});
}

std::int64_t quantized_bytes(const StoreReader& model, const std::string& path) {
    std::int64_t bytes = 0;
    for (const std::string& part : model.children(path)) bytes += model.info(path + "/" + part).bytes();
    return bytes;
}

}  // namespace

ExportPlan plan_export(const ExportJob& job) {
    const StoreReader& model = *job.model;
    const bool file = job.format == "gguf";
    check_free(job.out, !file);
    if (!job.tokenizer_from.empty()) tokenizer_files(job.tokenizer_from);
    ExportPlan plan;
    plan.matrices = matrix_format(job);
    const auto planning = make_cpu_backend({.threads = 1, .planning = true});
    std::vector<std::string> dense;
    std::string first_kept;
    for (const TensorSpec& spec : tensor_specs(read_config(model))) {
        const std::string path = "/tensors/" + spec.name;
        if (!model.has(path))
            throw Error(model.path() + ": has no tensor " + spec.name + ": the file is incomplete, make it again");
        ExportPlan::Tensor tensor{spec, model.is_group(path), {}, false};
        const auto elements = TensorInfo{DType::u8, spec.shape}.bytes();
        if (tensor.quantized) {
            if (plan.matrices) tensor.parts = plan.matrices->parts(model, spec);
            tensor.kept = !tensor.parts.empty();
            plan.bytes_read += quantized_bytes(model, path);
        } else {
            plan.bytes_read += model.info(path).bytes();
            if (spec.block_matrix) dense.push_back(spec.name);
        }
        if (!tensor.kept) tensor.parts = {dense_part(job, spec)};
        for (const SafetensorsEntry& part : tensor.parts) {
            plan.bytes_written += part.bytes;
            if (!tensor.kept) plan.accounted_bits += part.bytes * 8;
        }
        if (tensor.kept) {
            plan.accounted_bits += load_representation(*planning, model, path)->bits();
            first_kept = spec.name;
        }
        plan.weights += elements;
        plan.largest = std::max(plan.largest, elements);
        plan.tensors.push_back(std::move(tensor));
    }
    if (plan.matrices && !file) {
        if (first_kept.empty())
            throw Error(model.path() + ": is not quantised: use --format hf-dense, or quantise it first");
        plan.matrices->config(dense);  // what does not fit shows before any work
    }
    return plan;
}

std::vector<Bytes> convert_tensor(const ExportJob& job, const ExportPlan& plan, const ExportPlan::Tensor& tensor,
                                  const std::function<std::unique_ptr<Backend>()>& make_backend, RoundingError& error) {
    const StoreReader& model = *job.model;
    if (!tensor.quantized)
        return {narrowed(model.path(), tensor.parts[0], read_dense(model, tensor.spec.name, tensor.spec.shape))};
    const auto backend = make_backend();
    const auto matrix = load_representation(*backend, model, "/tensors/" + tensor.spec.name);
    if (std::vector{matrix->rows(), matrix->columns()} != tensor.spec.shape) {
        throw Error(model.path() + ": " + tensor.spec.name + " is " + std::to_string(matrix->rows()) + " x " +
                    std::to_string(matrix->columns()) + ", not what the config wants: make the file again");
    }
    if (tensor.kept) return plan.matrices->convert(tensor.parts, *matrix, error);
    const Tensor weight = backend->arena().allocate("weight", DType::f32, {matrix->rows(), matrix->columns()});
    matrix->dequantize(backend->ops(), weight);
    std::vector<float> values(static_cast<std::size_t>(weight.elements()));
    backend->download(values.data(), weight);
    return {narrowed(model.path(), tensor.parts[0], values)};
}

ExportResult export_model(const ExportJob& job, const ExportPlan& plan,
                          const std::function<std::unique_ptr<Backend>()>& make_backend,
                          const std::function<void(const std::string&)>& progress) {
    return job.format == "gguf" ? write_gguf(job, plan, make_backend, progress)
                                : write_hf_folder(job, plan, make_backend, progress);
}

std::vector<std::string> tokenizer_files(const std::string& folder) {
    namespace fs = std::filesystem;
    std::error_code code;
    if (!fs::is_directory(folder, code))
        throw Error(folder + ": no such folder: --tokenizer-from names a Hugging Face folder");
    std::vector<std::string> files;
    bool tokenizer = false;
    for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json",
                             "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                             "chat_template.json", "generation_config.json"}) {
        const std::string path = (fs::path(folder) / name).string();
        if (!fs::is_regular_file(path, code)) continue;
        files.push_back(path);
        tokenizer |= files.size() == 1 && !std::string(name).starts_with("tokenizer_config");
    }
    if (!tokenizer)
        throw Error(folder +
                    ": holds no tokenizer.json, tokenizer.model or vocab.json: --tokenizer-from names a "
                    "Hugging Face folder with a tokenizer");
    return files;
}

}  // namespace pvtune
