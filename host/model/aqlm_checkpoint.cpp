#include "host/model/aqlm_checkpoint.h"

#include "host/common/text.h"
#include "host/quant/additive.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

int layout_number(const nlohmann::json& layout, const std::string& source, const char* key, int least, int most) {
    const auto found = layout.find(key);
    const std::string value = found == layout.end() ? "missing" : found->dump();
    if (found == layout.end() || !found->is_number_integer() || found->get<std::int64_t>() < least ||
        found->get<std::int64_t>() > most) {
        throw Error(source + ": \"" + key + "\" of the quantization_config is " + value + ", not within " +
                    std::to_string(least) + " and " + std::to_string(most) + ", which is all that pvtune reads");
    }
    return found->get<int>();
}

std::string where_of(const SafetensorsFolder& folder, const std::string& name) {
    return folder.file_of(name) + ": " + name;
}

void check_part(const SafetensorsFolder& folder, const std::string& name, const std::vector<std::int64_t>& shape) {
    if (folder.info(name).shape == shape) return;
    throw Error(where_of(folder, name) + " is not " + shape_text(shape) +
                ", as config.json wants: is it the config of this model?");
}

std::vector<float> read_floats(const SafetensorsFolder& folder, const std::string& name) {
    const TensorInfo& info = folder.info(name);
    std::vector<float> values(static_cast<std::size_t>(info.elements()));
    const auto read_as = [&]<class T>(T) {
        std::vector<T> raw(values.size());
        std::memcpy(raw.data(), folder.data(name), static_cast<std::size_t>(info.bytes()));
        std::transform(raw.begin(), raw.end(), values.begin(), [](T value) { return to_float(value); });
    };
    if (info.dtype == DType::f32) read_as(float{});
    if (info.dtype == DType::bf16) read_as(bf16{});
    if (info.dtype == DType::f16) read_as(f16{});
    const auto bad = std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
    if (bad != values.end()) {
        throw Error(where_of(folder, name) + " holds NaN or infinity at element " +
                    std::to_string(bad - values.begin()) + ": the model is damaged, download it again");
    }
    return values;
}

/// Codes are signed integers of 8 or 16 bits that stand for themselves modulo the size of the codebook.
std::vector<std::uint16_t> read_codes(const SafetensorsFolder& folder, const std::string& name, int code_bits) {
    const TensorInfo& info = folder.info(name);
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(info.elements()));
    const std::byte* data = folder.data(name);
    const int half = 1 << (code_bits - 1);
    for (std::size_t i = 0; i < codes.size(); ++i) {
        int code = 0;
        if (info.dtype == DType::u8) {
            code = static_cast<std::int8_t>(data[i]);
        } else {
            std::int16_t wide = 0;
            std::memcpy(&wide, data + 2 * i, sizeof(wide));
            code = wide;
        }
        if (code < -half || code >= half) {
            throw Error(where_of(folder, name) + " holds the code " + std::to_string(code) + " at " +
                        std::to_string(i) + ", which codebooks of " + std::to_string(2 * half) +
                        " do not have: the model is damaged, download it again");
        }
        codes[i] = static_cast<std::uint16_t>(code & (2 * half - 1));
    }
    return codes;
}

bool all_halves(const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(),
                       [](float value) { return to_float(from_float<f16>(value)) == value; });
}

}  // namespace

std::optional<QuantizationSpec> take_aqlm_layout(std::string& config_json, const std::string& source) {
    nlohmann::json config = nlohmann::json::parse(config_json, nullptr, false);
    if (!config.is_object()) return std::nullopt;  // for parse_config() to refuse
    const auto found = config.find("quantization_config");
    if (found == config.end() || !found->is_object()) return std::nullopt;
    const nlohmann::json layout = *found;
    const nlohmann::json method = layout.value("quant_method", nlohmann::json());
    if (method != "aqlm") {
        throw Error(source + ": \"quant_method\" of the quantization_config is " + method.dump() +
                    "; only \"aqlm\" can be imported: take the unquantised model");
    }
    layout_number(layout, source, "out_group_size", 1, 1);
    QuantizationSpec spec;
    spec.codebooks = layout_number(layout, source, "num_codebooks", 1, 8);
    spec.code_bits = layout_number(layout, source, "nbits_per_codebook", 1, 16);
    spec.group = layout_number(layout, source, "in_group_size", 4, 16);
    if (spec.group != 4 && spec.group != 8 && spec.group != 16)
        throw Error(source + ": \"in_group_size\" of the quantization_config is " + std::to_string(spec.group) +
                    "; pvtune has groups of 4, 8 and 16");
    spec.representation = spec.codebooks == 1 ? "vq" : "aqlm";
    config.erase("quantization_config");
    config_json = config.dump();
    return spec;
}

std::array<std::string, 3> aqlm_parts(const std::string& matrix) {
    const std::string module = matrix.substr(0, matrix.size() - std::string("weight").size());
    return {module + "codes", module + "codebooks", module + "scales"};
}

std::int64_t check_aqlm_matrix(const SafetensorsFolder& folder, const SourceTensor& source,
                               const QuantizationSpec& layout) {
    const auto [codes, codebooks, scales] = aqlm_parts(source.name);
    check_columns(source.name, source.shape[1], layout.group);
    check_part(folder, codes, {source.shape[0], source.shape[1] / layout.group, layout.codebooks});
    check_part(folder, codebooks, {layout.codebooks, std::int64_t{1} << layout.code_bits, 1, layout.group});
    check_part(folder, scales, {source.shape[0], 1, 1, 1});
    const DType wanted = layout.code_bits <= 8 ? DType::u8 : DType::u16;  // I8 and I16, as the reader calls them
    if (folder.info(codes).dtype != wanted) {
        throw Error(where_of(folder, codes) + " is not of " + std::string(wanted == DType::u8 ? "I8" : "I16") +
                    ", as codes of " + std::to_string(layout.code_bits) + " bits are: convert the model");
    }
    for (const std::string& name : {codebooks, scales}) {
        const DType type = folder.info(name).dtype;
        if (type != DType::f32 && type != DType::bf16 && type != DType::f16) {
            throw Error(where_of(folder, name) + " is " + std::string(name_of(type)) +
                        "; it is f32, bf16 or f16 in an AQLM model: convert the model");
        }
    }
    const auto copies = static_cast<std::int64_t>(source.parts.size());
    return folder.info(codes).bytes() +
           (copies * folder.info(codebooks).elements() + folder.info(scales).elements()) * size_of(DType::f16);
}

void import_aqlm_matrix(const SafetensorsFolder& folder, const SourceTensor& source, const QuantizationSpec& layout,
                        StoreWriter& store) {
    const auto names = aqlm_parts(source.name);
    const std::vector<std::uint16_t> codes = read_codes(folder, names[0], layout.code_bits);
    const std::vector<float> codebooks = read_floats(folder, names[1]);
    const std::vector<float> scales = read_floats(folder, names[2]);
    const bool exact = !all_halves(codebooks) || !all_halves(scales);
    const auto backend = make_cpu_backend({.threads = 1});
    auto codes_left = std::span(codes);
    auto scales_left = std::span(scales);
    for (const TensorSpec& part : source.parts) {
        const auto rows = static_cast<std::size_t>(part.shape[0]);
        const std::size_t count = rows * (codes.size() / scales.size());
        AdditiveRepresentation matrix(*backend, part.shape[0], part.shape[1], layout);
        matrix.upload(*backend, codes_left.first(count), codebooks, scales_left.first(rows));
        matrix.save(*backend, store, "/tensors/" + part.name, exact);
        codes_left = codes_left.subspan(count);
        scales_left = scales_left.subspan(rows);
    }
}

}  // namespace pvtune
