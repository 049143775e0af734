#include "host/quant/representation.h"

#include "host/quant/additive.h"
#include "host/quant/quip.h"
#include "host/quant/scalar.h"
#include "host/quant/stored_parts.h"
#include "io/error.h"

namespace pvtune {

namespace {

void check_quip_spec(const QuantizationSpec& spec) {
    if (spec.code_bits < 2 || spec.code_bits > 4) {
        throw Error("--code-bits " + std::to_string(spec.code_bits) + ": quip has 2, 3 or 4 bits a weight");
    }
    if (spec.group != 8) {
        throw Error("--group " + std::to_string(spec.group) + ": groups of quip have 8 weights; leave --group out");
    }
    if (spec.codebooks != 1) {
        throw Error("--codebooks " + std::to_string(spec.codebooks) +
                    ": the codebooks of quip are fixed; leave --codebooks out");
    }
}

}  // namespace

void check_spec(const QuantizationSpec& spec) {
    if (spec.representation == "scalar") return check_scalar_spec(spec);
    if (spec.representation == "quip") return check_quip_spec(spec);
    if (spec.representation != "vq" && spec.representation != "aqlm") {
        throw Error("--representation " + spec.representation +
                    ": there is no such representation; use aqlm, vq, scalar or quip");
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

void Representation::round_as_stored(Backend& backend) {
    for (const ContinuousParameter& parameter : parameters()) round_to_halves(backend, parameter.value);
}

std::int64_t bits_of(const QuantizationSpec& spec, std::int64_t rows, std::int64_t columns) {
    if (spec.representation == "scalar") return scalar_bits(spec, rows, columns);
    if (spec.representation == "quip") return quip_bits(spec.code_bits, rows, columns, true);
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
    if (name == "quip") return load_quip(backend, store, path);
    throw Error(store.path() + ": " + path + ": unknown representation '" + name +
                "'; the file may be of a newer pvtune");
}

}  // namespace pvtune
