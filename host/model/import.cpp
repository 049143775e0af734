#include "host/model/import.h"

#include "host/common/text.h"
#include "host/model/aqlm_checkpoint.h"
#include "host/model/source.h"
#include "host/quant/quantize_model.h"
#include "io/error.h"
#include "io/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>

namespace pvtune {

namespace {

constexpr const char* head_name = "lm_head.weight";
constexpr const char* embedding_name = "model.embed_tokens.weight";

struct FolderConfig {
    ModelConfig model;
    std::optional<QuantizationSpec> aqlm;  ///< of an AQLM checkpoint

    bool only_codes(const SafetensorsFolder& folder, const std::string& name) const {
        return aqlm && !folder.has(name) && folder.has(aqlm_parts(name)[0]);
    }
    bool quantized(const SafetensorsFolder& folder, const SourceTensor& source) const {
        return source.parts[0].block_matrix && only_codes(folder, source.name);
    }
};

FolderConfig read_folder_config(const std::string& folder) {
    const std::string path = folder + "/config.json";
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw Error(path + ": no such file: --from names the folder of a Hugging Face model");
    std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (stream.bad()) throw Error(path + ": cannot be read: check the disk");
    const auto aqlm = take_aqlm_layout(text, path);
    return {parse_config(text, path), aqlm};
}

/// Tensors that old exports carry and that the config implies.
bool harmless(const ModelConfig& config, const std::string& name) {
    return name.ends_with(".rotary_emb.inv_freq") || (config.tied && name == head_name);
}

void check_tensor(const SafetensorsFolder& folder, const SourceTensor& spec) {
    const TensorInfo& info = folder.info(spec.name);
    const std::string where = folder.file_of(spec.name) + ": " + spec.name;
    if (info.shape != spec.shape) {
        throw Error(where + " is " + shape_text(info.shape) + ", config.json wants " + shape_text(spec.shape));
    }
    if (info.dtype != DType::f32 && info.dtype != DType::bf16 && info.dtype != DType::f16) {
        throw Error(where + " is " + std::string(name_of(info.dtype)) +
                    "; weights are f32, bf16 or f16: convert the model first");
    }
}

void check_names(const SafetensorsFolder& folder, const std::string& path, const FolderConfig& config,
                 const std::vector<SourceTensor>& sources) {
    for (const char* name : {head_name, embedding_name}) {
        if (!config.only_codes(folder, name)) continue;
        const std::string codes = aqlm_parts(name)[0];
        throw Error(
            folder.file_of(codes) + ": " + codes + " is there and no " + name +
            ": only the blocks may be quantised, not the embedding or the head: take a checkpoint that keeps it");
    }
    std::set<std::string> known;
    for (const SourceTensor& spec : sources) {
        if (config.quantized(folder, spec)) {
            check_aqlm_matrix(folder, spec, *config.aqlm);
            for (const std::string& part : aqlm_parts(spec.name)) known.insert(part);
            continue;
        }
        if (!folder.has(spec.name)) {
            throw Error(path + ": has no tensor " + spec.name +
                        ", which config.json asks for: download the model again");
        }
        check_tensor(folder, spec);
        known.insert(spec.name);
    }
    for (const std::string& name : folder.names()) {
        if (!known.contains(name) && !harmless(config.model, name)) {
            throw Error(folder.file_of(name) + ": " + name +
                        " is not part of the model that config.json describes: is it the config of this model?");
        }
    }
}

void check_finite(const std::string& where, DType dtype, const std::byte* data, std::int64_t count) {
    const auto check = [&]<class T>(T) {
        const T* values = reinterpret_cast<const T*>(data);
        const T* bad = std::find_if(values, values + count, [](T value) { return !std::isfinite(to_float(value)); });
        if (bad != values + count) {
            throw Error(where + " holds " + (std::isnan(to_float(*bad)) ? "NaN" : "infinity") + " at element " +
                        std::to_string(bad - values) + ": the model is damaged, download it again");
        }
    };
    if (dtype == DType::f32) check(float{});
    if (dtype == DType::bf16) check(bf16{});
    if (dtype == DType::f16) check(f16{});
}

/// A head that is stored though the config ties it must be the embedding; else the two would be confused silently.
void check_tied_head(const SafetensorsFolder& folder, const ModelConfig& config) {
    if (!config.tied || !folder.has(head_name)) return;
    const TensorInfo& head = folder.info(head_name);
    const TensorInfo& embedding = folder.info(embedding_name);
    if (head.dtype != embedding.dtype || head.shape != embedding.shape ||
        std::memcmp(folder.data(head_name), folder.data(embedding_name), static_cast<std::size_t>(head.bytes())) != 0) {
        throw Error(folder.file_of(head_name) + ": " + head_name +
                    " differs from the embedding although config.json ties them (tie_word_embeddings)");
    }
}

/// How a part of it is stored.
DType stored_type(const SourceTensor& source, const TensorInfo& info) {
    return source.offset != 0 ? DType::f32 : info.dtype;
}

/// The values plus the offset, in f32.
std::vector<float> shifted(const std::byte* data, const TensorInfo& info, double offset) {
    std::vector<float> values(static_cast<std::size_t>(info.elements()));
    const auto shift = [&]<class T>(T) {
        const T* from = reinterpret_cast<const T*>(data);
        std::transform(from, from + values.size(), values.begin(),
                       [&](T value) { return to_float(value) + static_cast<float>(offset); });
    };
    if (info.dtype == DType::f32) shift(float{});
    if (info.dtype == DType::bf16) shift(bf16{});
    if (info.dtype == DType::f16) shift(f16{});
    return values;
}

}  // namespace

ImportPlan plan_import(const std::string& path) {
    ImportPlan plan;
    const FolderConfig config = read_folder_config(path);
    plan.config = config.model;
    const SafetensorsFolder folder(path);
    const std::vector<SourceTensor> sources = source_tensors(plan.config);
    check_names(folder, path, config, sources);
    check_tied_head(folder, plan.config);
    for (const SourceTensor& source : sources) {
        const std::int64_t elements = TensorInfo{DType::u8, source.shape}.elements();
        const std::int64_t bytes = config.quantized(folder, source)
                                       ? check_aqlm_matrix(folder, source, *config.aqlm)
                                       : elements * size_of(stored_type(source, folder.info(source.name)));
        plan.tensors += static_cast<std::int64_t>(source.parts.size());
        plan.parameters += elements;
        plan.bytes += bytes;
        plan.largest = std::max(plan.largest, bytes);
    }
    return plan;
}

ImportResult import_model(const std::string& path, const std::string& out, const std::string& command,
                          const std::function<void(const std::string&, std::int64_t)>& progress) {
    const FolderConfig config = read_folder_config(path);
    const SafetensorsFolder folder(path);
    const std::vector<SourceTensor> sources = source_tensors(config.model);
    check_names(folder, path, config, sources);

    StoreWriter store(out, "weights", command);
    store.set_text("/", "config", config.model.json);
    if (config.aqlm) store.set_text("/", "quantization", quantization_json(*config.aqlm, 0, "an AQLM checkpoint"));
    ImportResult result;
    std::vector<std::byte> aligned;  // tensors of a safetensors file may lie at any byte
    for (const SourceTensor& source : sources) {
        if (config.quantized(folder, source)) {
            const std::int64_t elements = TensorInfo{DType::u8, source.shape}.elements();
            import_aqlm_matrix(folder, source, *config.aqlm, store);
            result.tensors += static_cast<std::int64_t>(source.parts.size());
            result.parameters += elements;
            result.bytes += check_aqlm_matrix(folder, source, *config.aqlm);
            progress(source.name, elements);
            continue;
        }
        const TensorInfo& info = folder.info(source.name);
        aligned.assign(folder.data(source.name), folder.data(source.name) + info.bytes());
        check_finite(folder.file_of(source.name) + ": " + source.name, info.dtype, aligned.data(), info.elements());
        if (source.offset != 0) {
            const std::vector<float> values = shifted(aligned.data(), info, source.offset);
            aligned.resize(values.size() * sizeof(float));
            std::memcpy(aligned.data(), values.data(), aligned.size());
        }
        const std::byte* rows = aligned.data();
        for (const TensorSpec& part : source.parts) {
            const TensorInfo stored{stored_type(source, info), part.shape};
            store.write("/tensors/" + part.name, stored.dtype, stored.shape, rows);
            rows += stored.bytes();
            ++result.tensors;
            result.parameters += stored.elements();
            result.bytes += stored.bytes();
            progress(part.name, stored.elements());
        }
    }
    folder.check_unchanged();
    result.content_hash = store.commit();
    return result;
}

}  // namespace pvtune
