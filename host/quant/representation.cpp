#include "host/quant/representation.h"

#include "host/quant/additive.h"
#include "host/quant/scalar.h"
#include "io/error.h"

namespace pvtune {

void check_spec(const QuantizationSpec& spec) {
    if (spec.representation == "scalar") return check_scalar_spec(spec);
    if (spec.representation != "vq" && spec.representation != "aqlm") {
        throw Error("--representation " + spec.representation +
                    ": there is no such representation; use aqlm, vq or scalar");
    }
    if (spec.group != 4 && spec.group != 8 && spec.group != 16) {
        throw Error("--group " + std::to_string(spec.group) + ": groups have 4, 8 or 16 weights");
    }
    if (spec.code_bits < 1 || spec.code_bits > 16) {
        throw Error("--code-bits " + std::to_string(spec.code_bits) + ": codes have 1 to 16 bits");
    }
    if (spec.codebooks < 1 || spec.codebooks > 8) {
        throw Error("--codebooks " + std::to_string(spec.codebooks) + ": a matrix has 1 to 8 codebooks");
    }
    if (spec.representation == "vq" && spec.codebooks != 1) {
        throw Error("--codebooks " + std::to_string(spec.codebooks) +
                    ": vq has one codebook; use --codebooks 1 or --representation aqlm");
    }
}

std::int64_t bits_of(const QuantizationSpec& spec, std::int64_t rows, std::int64_t columns) {
    if (spec.representation == "scalar") return scalar_bits(spec, rows, columns);
    constexpr std::int64_t value_bits = 16;  // of codebooks and scales in the file
    const std::int64_t codes = rows * (columns / spec.group) * spec.codebooks * spec.code_bits;
    const std::int64_t codebooks = spec.codebooks * (std::int64_t{1} << spec.code_bits) * spec.group;
    return codes + value_bits * (codebooks + rows);
}

std::unique_ptr<Representation> load_representation(Backend& backend, const StoreReader& store,
                                                    const std::string& path) {
    const std::string name = store.text(path, "representation");
    if (name == "vq" || name == "aqlm") return load_additive(backend, store, path);
    if (name == "scalar") return load_scalar(backend, store, path);
    throw Error(store.path() + ": " + path + ": unknown representation '" + name +
                "'; the file may be of a newer pvtune");
}

}  // namespace pvtune
