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
SafetensorsEntry dense_part(const ExportJob& job, const SourceTensor& source) {
    const DType type = job.format == "gguf" && source.shape.size() == 1 ? DType::f32 : job.dense;
    return {source.name, type_name(type), source.shape, TensorInfo{type, source.shape}.bytes()};
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

std::int64_t stored_bytes(const StoreReader& model, const std::string& path) {
    if (!model.is_group(path)) return model.info(path).bytes();
    std::int64_t bytes = 0;
    for (const std::string& part : model.children(path)) bytes += model.info(path + "/" + part).bytes();
    return bytes;
}

/// Reads what it takes of a matrix; its shape must be the config's.
std::unique_ptr<Representation> load_matrix(Backend& backend, const StoreReader& model, const TensorSpec& spec) {
    auto matrix = load_representation(backend, model, "/tensors/" + spec.name);
    if (std::vector{matrix->rows(), matrix->columns()} == spec.shape) return matrix;
    throw Error(model.path() + ": " + spec.name + " is " + std::to_string(matrix->rows()) + " x " +
                std::to_string(matrix->columns()) + ", not what the config wants: make the file again");
}

std::vector<float> dense_values(const StoreReader& model, const TensorSpec& spec,
                                const std::function<std::unique_ptr<Backend>()>& make_backend) {
    if (!model.is_group("/tensors/" + spec.name)) return read_dense(model, spec.name, spec.shape);
    const auto backend = make_backend();
    const auto matrix = load_matrix(*backend, model, spec);
    const Tensor weight = backend->arena().allocate("weight", DType::f32, {matrix->rows(), matrix->columns()});
    matrix->dequantize(backend->ops(), weight);
    std::vector<float> values(static_cast<std::size_t>(weight.elements()));
    backend->download(values.data(), weight);
    return values;
}

/// What a tensor of the folder becomes.
ExportPlan::Tensor plan_tensor(const ExportJob& job, MatrixFormat* matrices, const SourceTensor& source) {
    const StoreReader& model = *job.model;
    ExportPlan::Tensor tensor{source, false, {}, false};
    for (const TensorSpec& part : source.parts) {
        const std::string path = "/tensors/" + part.name;
        if (!model.has(path))
            throw Error(model.path() + ": has no tensor " + part.name + ": the file is incomplete, make it again");
        tensor.quantized |= model.is_group(path);
    }
    if (tensor.quantized && matrices != nullptr) {
        if (source.parts.size() > 1) {
            throw Error(model.path() + ": " + source.name + " is one matrix in this family, pvtune's are quantised " +
                        "apart: use --format hf-dense");
        }
        tensor.parts = matrices->parts(model, source.parts[0]);
        tensor.kept = !tensor.parts.empty();
    }
    if (!tensor.kept) tensor.parts = {dense_part(job, source)};
    return tensor;
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
    bool kept = false;
    for (const SourceTensor& source : source_tensors(read_config(model))) {
        const ExportPlan::Tensor& tensor = plan.tensors.emplace_back(plan_tensor(job, plan.matrices.get(), source));
        for (const TensorSpec& part : source.parts) plan.bytes_read += stored_bytes(model, "/tensors/" + part.name);
        for (const SafetensorsEntry& part : tensor.parts) {
            plan.bytes_written += part.bytes;
            if (!tensor.kept) plan.accounted_bits += part.bytes * 8;
        }
        if (tensor.kept) plan.accounted_bits += load_matrix(*planning, model, source.parts[0])->bits();
        kept |= tensor.kept;
        const std::int64_t elements = TensorInfo{DType::u8, source.shape}.elements();
        plan.weights += elements;
        plan.largest = std::max(plan.largest, elements);
    }
    if (plan.matrices && !file) {
        if (!kept) throw Error(model.path() + ": is not quantised: use --format hf-dense, or quantise it first");
        plan.matrices->config(plan.dense_matrices());  // what does not fit shows before any work
    }
    return plan;
}

std::vector<std::string> ExportPlan::dense_matrices() const {
    std::vector<std::string> names;
    for (const Tensor& tensor : tensors) {
        if (tensor.source.parts[0].block_matrix && !tensor.kept) names.push_back(tensor.source.name);
    }
    return names;
}

std::vector<Bytes> convert_tensor(const ExportJob& job, const ExportPlan& plan, const ExportPlan::Tensor& tensor,
                                  const std::function<std::unique_ptr<Backend>()>& make_backend, RoundingError& error) {
    const StoreReader& model = *job.model;
    if (tensor.kept) {
        const auto backend = make_backend();
        return plan.matrices->convert(tensor.parts, *load_matrix(*backend, model, tensor.source.parts[0]), error);
    }
    std::vector<float> values;
    for (const TensorSpec& part : tensor.source.parts) {
        const std::vector<float> rows = dense_values(model, part, make_backend);
        values.insert(values.end(), rows.begin(), rows.end());
    }
    for (float& value : values) value -= static_cast<float>(tensor.source.offset);
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
        tokenizer |= std::string(name).starts_with("tokenizer.") || std::string(name) == "vocab.json";
    }
    if (!tokenizer)
        throw Error(folder +
                    ": holds no tokenizer.json, tokenizer.model or vocab.json: --tokenizer-from names a "
                    "Hugging Face folder with a tokenizer");
    return files;
}

}  // namespace pvtune
