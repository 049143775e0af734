#include "host/export/matrix_format.h"
#include "host/quant/additive.h"
#include "io/error.h"

#include <nlohmann/json.hpp>
#include <optional>

namespace pvtune {

namespace {

struct Layout {
    std::int64_t codebooks = 0, code_bits = 0, group = 0;

    bool operator==(const Layout&) const = default;
    std::string text() const {
        return std::to_string(codebooks) + "x" + std::to_string(code_bits) + " g" + std::to_string(group);
    }
};

/// The package keeps codes in signed integers: those from half the codebook on are negative.
template <class Code, class Signed>
Bytes signed_codes(const Tensor& codes, std::int64_t code_bits) {
    std::vector<Signed> result(static_cast<std::size_t>(codes.elements()));
    const std::int32_t size = 1 << code_bits;
    for (std::size_t i = 0; i < result.size(); ++i) {
        const std::int32_t code = codes.as<Code>()[i];
        result[i] = static_cast<Signed>(code < size / 2 ? code : code - size);
    }
    return to_bytes(result);
}

Bytes floats(const Tensor& values, const std::string& type) {
    const float* data = values.as<float>();
    if (type == "F32") return to_bytes(std::vector<float>(data, data + values.elements()));
    std::vector<f16> halves(static_cast<std::size_t>(values.elements()));
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = from_float<f16>(data[i]);
    return to_bytes(halves);
}

class AqlmFormat : public MatrixFormat {
public:
    std::vector<SafetensorsEntry> parts(const StoreReader& model, const TensorSpec& spec) override {
        const std::string path = "/tensors/" + spec.name;
        const std::string kind = model.text(path, "representation");
        if (kind != "vq" && kind != "aqlm") {
            throw Error(model.path() + ": " + spec.name + " is in the representation " + kind +
                        ", hf-aqlm holds vq and aqlm: use --format hf-dense" + (kind == "scalar" ? " or hf-gptq" : ""));
        }
        const Layout found{model.integer(path, "codebooks"), model.integer(path, "code_bits"),
                           model.integer(path, "group")};
        if (!layout_) layout_ = found;
        if (found != *layout_) {
            throw Error(model.path() + ": " + spec.name + " is " + found.text() + ", matrices before it are " +
                        layout_->text() + "; hf-aqlm has one layout for all: use --format hf-dense");
        }
        // Exactly as they are stored: f16, or f32 where an imported model's values are no f16.
        const auto type_of = [&](const char* part) {
            return model.info(path + part).dtype == DType::f32 ? std::string("F32") : std::string("F16");
        };
        const std::int64_t rows = spec.shape[0];
        const std::int64_t groups = spec.shape[1] / found.group;
        const std::int64_t entries = found.codebooks * (std::int64_t{1} << found.code_bits) * found.group;
        const std::int64_t code_bytes = found.code_bits <= 8 ? 1 : 2;
        const std::string codebook_type = type_of("/codebooks");
        const std::string scale_type = type_of("/scales");
        const auto size = [](const std::string& type) { return type == "F32" ? 4 : 2; };
        const std::string module = module_of(spec.name);
        return {{module + ".codes",
                 code_bytes == 1 ? "I8" : "I16",
                 {rows, groups, found.codebooks},
                 rows * groups * found.codebooks * code_bytes},
                {module + ".codebooks",
                 codebook_type,
                 {found.codebooks, std::int64_t{1} << found.code_bits, 1, found.group},
                 entries * size(codebook_type)},
                {module + ".scales", scale_type, {rows, 1, 1, 1}, rows * size(scale_type)}};
    }

    std::vector<Bytes> convert(const std::vector<SafetensorsEntry>& parts, const Representation& matrix,
                               RoundingError& /*error*/) const override {
        const AdditiveCodes& additive = dynamic_cast<const AdditiveRepresentation&>(matrix).additive();
        const Bytes codes = additive.codes.dtype == DType::u8
                                ? signed_codes<std::uint8_t, std::int8_t>(additive.codes, layout_->code_bits)
                                : signed_codes<std::uint16_t, std::int16_t>(additive.codes, layout_->code_bits);
        return {codes, floats(additive.codebooks, parts[1].type), floats(additive.scales, parts[2].type)};
    }

    nlohmann::ordered_json config(const std::vector<std::string>& dense) const override {
        // Older transformers look for the tensor's name, newer for the module's.
        std::vector<std::string> names = {"lm_head.weight", "lm_head"};
        for (const std::string& name : dense) names.insert(names.end(), {name, module_of(name)});
        return {{"quant_method", "aqlm"},
                {"in_group_size", layout_->group},
                {"out_group_size", 1},
                {"num_codebooks", layout_->codebooks},
                {"nbits_per_codebook", layout_->code_bits},
                {"linear_weights_not_to_quantize", names}};
    }

private:
    std::optional<Layout> layout_;
};

}  // namespace

std::string module_of(const std::string& tensor) {
    const std::string suffix = ".weight";
    return tensor.ends_with(suffix) ? tensor.substr(0, tensor.size() - suffix.size()) : tensor;
}

std::unique_ptr<MatrixFormat> make_aqlm_format() { return std::make_unique<AqlmFormat>(); }

}  // namespace pvtune
