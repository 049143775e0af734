#include "host/quant/scalar.h"

#include "host/quant/stored_parts.h"
#include "io/error.h"

namespace pvtune {

namespace {

constexpr int most_code_bits = 8;

bool known_group(std::int64_t group) { return group == 0 || group == 32 || group == 64 || group == 128; }

std::vector<std::uint8_t> read_codes(const StoreReader& store, const std::string& path,
                                     const std::vector<std::int64_t>& shape, int code_bits) {
    std::vector<std::uint8_t> codes = read_bytes(store, path, shape);
    for (std::size_t i = 0; i < codes.size(); ++i) {
        if (codes[i] >> code_bits == 0) continue;
        refuse_part(store, path,
                    "code " + std::to_string(codes[i]) + " at " + std::to_string(i) + " is not below " +
                        std::to_string(1 << code_bits));
    }
    return codes;
}

}  // namespace

std::int64_t grid_columns(const QuantizationSpec& spec, std::int64_t columns) {
    return spec.group == 0 ? columns : spec.group;
}

std::int64_t grids_of(const QuantizationSpec& spec, std::int64_t columns) {
    const std::int64_t group = grid_columns(spec, columns);
    return (columns + group - 1) / group;
}

void check_scalar_spec(const QuantizationSpec& spec) {
    if (spec.codebooks != 1) {
        throw Error("--codebooks " + std::to_string(spec.codebooks) +
                    ": scalar grids have no codebooks; leave the flag out");
    }
    if (!known_group(spec.group)) {
        throw Error("--group " + std::to_string(spec.group) +
                    ": scalar grids are of 32, 64 or 128 columns, or of a whole row (0)");
    }
    if (spec.code_bits < 2 || spec.code_bits > most_code_bits) {
        throw Error("--code-bits " + std::to_string(spec.code_bits) + ": scalar codes have 2 to 8 bits");
    }
}

std::int64_t scalar_bits(const QuantizationSpec& spec, std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t grid_bits = 2 * 16;  // a scale and a zero
    return rows * (columns * spec.code_bits + grids_of(spec, columns) * grid_bits);
}

ScalarRepresentation::ScalarRepresentation(Backend& backend, std::int64_t rows, std::int64_t columns,
                                           const QuantizationSpec& spec)
    : memory_(backend), spec_(spec) {
    Arena& arena = memory_.arena();
    const std::int64_t grids = grids_of(spec, columns);
    scalar_.codes = arena.allocate("codes", DType::u8, {rows, columns});
    scalar_.scales = arena.allocate("scales", DType::f32, {rows, grids});
    scalar_.zeros = arena.allocate("zeros", DType::f32, {rows, grids});
    scalar_.group = grid_columns(spec, columns);
    scalar_.levels = std::int64_t{1} << spec.code_bits;
}

std::vector<ContinuousParameter> ScalarRepresentation::parameters() const {
    return {{"scales", scalar_.scales}, {"zeros", scalar_.zeros}};
}

void ScalarRepresentation::backward(Ops& ops, std::span<const Tensor> gradients, Tensor d_weight) const {
    assert(gradients.size() == 2);
    ops.scalar_gradient(gradients[0], gradients[1], d_weight, scalar_);
}

void ScalarRepresentation::upload(Backend& backend, std::span<const std::uint8_t> codes, std::span<const float> scales,
                                  std::span<const float> zeros) {
    assert(static_cast<std::int64_t>(codes.size()) == scalar_.codes.elements());
    assert(static_cast<std::int64_t>(scales.size()) == scalar_.scales.elements());
    assert(static_cast<std::int64_t>(zeros.size()) == scalar_.zeros.elements());
    backend.upload(scalar_.codes, codes.data());
    backend.upload(scalar_.scales, scales.data());
    backend.upload(scalar_.zeros, zeros.data());
}

void ScalarRepresentation::save(Backend& backend, StoreWriter& store, const std::string& path, bool exact) const {
    store.create_group(path);
    store.set_text(path, "representation", name());
    store.set_integer(path, "rows", rows());
    store.set_integer(path, "columns", columns());
    store.set_integer(path, "group", spec_.group);
    store.set_integer(path, "code_bits", spec_.code_bits);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(scalar_.codes.elements()));
    backend.download(codes.data(), scalar_.codes);
    store.write(path + "/codes", DType::u8, scalar_.codes.extents(), codes.data());
    save_floats(backend, store, path + "/scales", scalar_.scales, exact);
    save_floats(backend, store, path + "/zeros", scalar_.zeros, exact);
}

std::unique_ptr<Representation> load_scalar(Backend& backend, const StoreReader& store, const std::string& path) {
    constexpr std::int64_t most = std::int64_t{1} << 31;  // keeps every product of sizes far from overflow
    const std::int64_t rows = read_attribute(store, path, "rows", 1, most);
    const std::int64_t columns = read_attribute(store, path, "columns", 1, most);
    QuantizationSpec spec;
    spec.representation = "scalar";
    spec.codebooks = 1;
    spec.group = static_cast<int>(read_attribute(store, path, "group", 0, 128));
    spec.code_bits = static_cast<int>(read_attribute(store, path, "code_bits", 2, most_code_bits));
    if (!known_group(spec.group)) {
        refuse_part(store, path, "attribute group is " + std::to_string(spec.group) + ", not 0, 32, 64 or 128");
    }
    if (backend.arena().planning()) return std::make_unique<ScalarRepresentation>(backend, rows, columns, spec);
    // Everything is read and checked before the arena grows.
    const auto codes = read_codes(store, path + "/codes", {rows, columns}, spec.code_bits);
    const auto scales = read_floats(store, path + "/scales", {rows, grids_of(spec, columns)});
    const auto zeros = read_floats(store, path + "/zeros", {rows, grids_of(spec, columns)});
    auto representation = std::make_unique<ScalarRepresentation>(backend, rows, columns, spec);
    representation->upload(backend, codes, scales, zeros);
    return representation;
}

}  // namespace pvtune
