#include "host/quant/additive.h"

#include "host/quant/stored_parts.h"
#include "io/error.h"

namespace pvtune {
namespace {

DType code_type(int code_bits) { return code_bits <= 8 ? DType::u8 : DType::u16; }

std::vector<std::uint16_t> read_codes(const StoreReader& store, const std::string& path,
                                      const std::vector<std::int64_t>& shape, int code_bits) {
    const TensorInfo info = store.info(path);
    check_shape(store, path, info, shape);
    if (info.dtype != code_type(code_bits)) {
        refuse_part(
            store, path,
            "the type is " + std::string(name_of(info.dtype)) + ", not " + std::string(name_of(code_type(code_bits))));
    }
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(info.elements()));
    if (info.dtype == DType::u16) {
        store.read(path, codes.data(), info.bytes());
    } else {
        std::vector<std::uint8_t> bytes(codes.size());
        store.read(path, bytes.data(), info.bytes());
        std::copy(bytes.begin(), bytes.end(), codes.begin());
    }
    for (std::size_t i = 0; i < codes.size(); ++i) {
        if (codes[i] >> code_bits == 0) continue;
        refuse_part(store, path,
                    "code " + std::to_string(codes[i]) + " at " + std::to_string(i) +
                        " is not below the codebook size " + std::to_string(1 << code_bits));
    }
    return codes;
}

}  // namespace

void check_columns(const std::string& name, std::int64_t columns, int group) {
    if (columns % group == 0) return;
    throw Error("tensor '" + name + "' has " + std::to_string(columns) + " columns, not a multiple of --group " +
                std::to_string(group) + "; choose another --group (4, 8 or 16)");
}

AdditiveRepresentation::AdditiveRepresentation(Backend& backend, std::int64_t rows, std::int64_t columns,
                                               const QuantizationSpec& spec)
    : memory_(backend),
      rows_(rows),
      columns_(columns),
      group_(spec.group),
      books_(spec.codebooks),
      code_bits_(spec.code_bits) {
    assert(columns % group_ == 0);
    Arena& arena = memory_.arena();
    additive_.codes = arena.allocate("codes", code_type(code_bits_), {rows, columns / group_, books_});
    additive_.codebooks = arena.allocate("codebooks", DType::f32, {books_, std::int64_t{1} << code_bits_, group_});
    additive_.scales = arena.allocate("scales", DType::f32, {rows});
}

std::int64_t AdditiveRepresentation::bits() const {
    return bits_of({name(), static_cast<int>(books_), code_bits_, static_cast<int>(group_)}, rows_, columns_);
}

std::vector<ContinuousParameter> AdditiveRepresentation::parameters() const {
    return {{"codebooks", additive_.codebooks}, {"scales", additive_.scales}};
}

void AdditiveRepresentation::backward(Ops& ops, std::span<const Tensor> gradients, Tensor d_weight) const {
    assert(gradients.size() == 2);
    ops.additive_gradient(gradients[0], gradients[1], d_weight, additive_);
}

void AdditiveRepresentation::assign(Ops& ops, Tensor changed, Tensor target, Tensor groups, int beam) {
    ops.assign_additive(additive_, changed, target, groups, beam);
}

void AdditiveRepresentation::upload(Backend& backend, std::span<const std::uint16_t> codes,
                                    std::span<const float> codebooks, std::span<const float> scales) {
    assert(static_cast<std::int64_t>(codes.size()) == additive_.codes.elements());
    assert(static_cast<std::int64_t>(codebooks.size()) == additive_.codebooks.elements());
    assert(static_cast<std::int64_t>(scales.size()) == additive_.scales.elements());
    if (additive_.codes.dtype == DType::u16) {
        backend.upload(additive_.codes, codes.data());
    } else {
        const std::vector<std::uint8_t> bytes(codes.begin(), codes.end());
        backend.upload(additive_.codes, bytes.data());
    }
    backend.upload(additive_.codebooks, codebooks.data());
    backend.upload(additive_.scales, scales.data());
}

void AdditiveRepresentation::save(Backend& backend, StoreWriter& store, const std::string& path, bool exact) const {
    store.create_group(path);
    store.set_text(path, "representation", name());
    store.set_integer(path, "rows", rows_);
    store.set_integer(path, "columns", columns_);
    store.set_integer(path, "group", group_);
    store.set_integer(path, "codebooks", books_);
    store.set_integer(path, "code_bits", code_bits_);
    std::vector<std::byte> codes(static_cast<std::size_t>(additive_.codes.bytes()));
    backend.download(codes.data(), additive_.codes);
    store.write(path + "/codes", additive_.codes.dtype, additive_.codes.extents(), codes.data());
    save_floats(backend, store, path + "/codebooks", additive_.codebooks, exact);
    save_floats(backend, store, path + "/scales", additive_.scales, exact);
}

std::unique_ptr<Representation> load_additive(Backend& backend, const StoreReader& store, const std::string& path) {
    constexpr std::int64_t most = std::int64_t{1} << 31;  // keeps every product of sizes far from overflow
    const std::int64_t rows = read_attribute(store, path, "rows", 1, most);
    const std::int64_t columns = read_attribute(store, path, "columns", 1, most);
    QuantizationSpec spec;
    spec.representation = store.text(path, "representation");
    spec.group = static_cast<int>(read_attribute(store, path, "group", 4, 16));
    spec.codebooks = static_cast<int>(read_attribute(store, path, "codebooks", 1, 8));
    spec.code_bits = static_cast<int>(read_attribute(store, path, "code_bits", 1, 16));
    if (spec.group != 4 && spec.group != 8 && spec.group != 16) {
        refuse_part(store, path, "attribute group is " + std::to_string(spec.group) + ", not 4, 8 or 16");
    }
    if (columns % spec.group != 0) {
        refuse_part(store, path,
                    "attribute columns is " + std::to_string(columns) + ", not a multiple of the group " +
                        std::to_string(spec.group));
    }
    if ((spec.representation == "vq") != (spec.codebooks == 1)) {
        refuse_part(store, path, spec.representation + " with " + std::to_string(spec.codebooks) + " codebooks");
    }
    if (backend.arena().planning()) return std::make_unique<AdditiveRepresentation>(backend, rows, columns, spec);
    // Everything is read and checked before the arena grows.
    const auto codes = read_codes(store, path + "/codes", {rows, columns / spec.group, spec.codebooks}, spec.code_bits);
    const auto codebooks =
        read_floats(store, path + "/codebooks", {spec.codebooks, std::int64_t{1} << spec.code_bits, spec.group});
    const auto scales = read_floats(store, path + "/scales", {rows});
    auto representation = std::make_unique<AdditiveRepresentation>(backend, rows, columns, spec);
    representation->upload(backend, codes, codebooks, scales);
    return representation;
}

}  // namespace pvtune
