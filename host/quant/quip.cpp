#include "host/quant/quip.h"

#include "host/backend/hadamard.h"
#include "host/quant/stored_parts.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>

namespace pvtune {
namespace {

constexpr std::int64_t lattice_group = QuipRepresentation::lattice_group;
constexpr std::int64_t bits_a_byte = 8;

bool all_signs(const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::fabs(value) == 1; });
}

/// Bit i % 8 of byte i / 8: element i is -1.
void save_signs(StoreWriter& store, const std::string& path, const std::vector<float>& values) {
    std::vector<std::uint8_t> packed((values.size() + 7) / 8);
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (values[i] < 0) packed[i / 8] = static_cast<std::uint8_t>(packed[i / 8] | 1U << i % 8);
    }
    store.write(path, DType::u8, {static_cast<std::int64_t>(packed.size())}, packed.data());
}

std::vector<float> read_signs(const StoreReader& store, const std::string& path, std::int64_t count) {
    const std::vector<std::uint8_t> packed = read_bytes(store, path, {(count + bits_a_byte - 1) / bits_a_byte});
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = (packed[i / 8] >> i % 8 & 1U) != 0 ? -1.0F : 1.0F;
    return values;
}

std::vector<float> download(Backend& backend, Tensor tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
    backend.download(values.data(), tensor);
    return values;
}

}  // namespace

void check_quip_sizes(const std::string& name, std::int64_t rows, std::int64_t columns) {
    // Beyond that the dense factor of the transform would cost more than the products with the matrix.
    constexpr std::int64_t most_order = 1024;
    if (columns % lattice_group != 0) {
        throw Error("tensor '" + name + "' has " + std::to_string(columns) +
                    " columns, not a multiple of 8: quip cannot cut it into groups; use --representation aqlm with "
                    "--group 4");
    }
    for (const std::int64_t size : {rows, columns}) {
        if (hadamard_order(size) <= most_order) continue;
        throw Error("tensor '" + name + "' has a side of " + std::to_string(size) +
                    ", whose odd part is beyond 1024: quip has no fast transform for it; use --representation aqlm");
    }
}

void check_quip_fits(const Backend& backend, const std::string& matrix, std::int64_t rows, std::int64_t columns) {
    const std::int64_t most = backend.longest_hadamard_row();
    const std::int64_t side = std::max(rows, columns);
    if (side <= most) return;
    throw Error(matrix + " has a side of " + std::to_string(side) + ", the device transforms at most " +
                std::to_string(most) + " for quip: use --device cpu, or quantise with another --representation");
}

std::int64_t quip_bits(int code_bits, std::int64_t rows, std::int64_t columns, bool signs) {
    constexpr std::int64_t scale_bits = 32;
    return rows * columns * code_bits + scale_bits + (rows + columns) * (signs ? 1 : 16);
}

QuipRepresentation::QuipRepresentation(Backend& backend, std::int64_t rows, std::int64_t columns, int code_bits,
                                       bool signs)
    : memory_(backend), rows_(rows), columns_(columns), code_bits_(code_bits), signs_(signs) {
    assert(columns % lattice_group == 0 && code_bits >= 2 && code_bits <= 4);
    Arena& arena = memory_.arena();
    lattice_.codes = arena.allocate("codes", DType::u8, {rows, columns / lattice_group, code_bits});
    lattice_.scale = arena.allocate("scales", DType::f32, {1});
    lattice_.left = arena.allocate("scales", DType::f32, {rows});
    lattice_.right = arena.allocate("scales", DType::f32, {columns});
}

std::int64_t QuipRepresentation::bits() const { return quip_bits(code_bits_, rows_, columns_, signs_); }

std::vector<ContinuousParameter> QuipRepresentation::parameters() const {
    return {{"scale", lattice_.scale}, {"left", lattice_.left}, {"right", lattice_.right}};
}

void QuipRepresentation::backward(Ops& ops, std::span<const Tensor> gradients, Tensor d_weight) const {
    assert(gradients.size() == 3);
    ops.lattice_gradient(gradients[0], gradients[1], gradients[2], d_weight, lattice_);
}

void QuipRepresentation::assign(Ops& ops, Tensor changed, Tensor target, Tensor groups, int) {
    ops.assign_lattice(lattice_, changed, target, groups);
}

void QuipRepresentation::round_as_stored(Backend& backend) {
    round_to_halves(backend, lattice_.left);
    round_to_halves(backend, lattice_.right);
    signs_ = all_signs(download(backend, lattice_.left)) && all_signs(download(backend, lattice_.right));
}

void QuipRepresentation::upload(Backend& backend, std::span<const std::uint8_t> codes, float scale,
                                std::span<const float> left, std::span<const float> right) {
    assert(static_cast<std::int64_t>(codes.size()) == lattice_.codes.elements());
    assert(static_cast<std::int64_t>(left.size()) == rows_ && static_cast<std::int64_t>(right.size()) == columns_);
    backend.upload(lattice_.codes, codes.data());
    backend.upload(lattice_.scale, &scale);
    backend.upload(lattice_.left, left.data());
    backend.upload(lattice_.right, right.data());
}

void QuipRepresentation::save(Backend& backend, StoreWriter& store, const std::string& path, bool exact) const {
    store.create_group(path);
    store.set_text(path, "representation", name());
    store.set_integer(path, "rows", rows_);
    store.set_integer(path, "columns", columns_);
    store.set_integer(path, "group", lattice_group);
    store.set_integer(path, "code_bits", code_bits_);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(lattice_.codes.elements()));
    backend.download(codes.data(), lattice_.codes);
    store.write(path + "/codes", DType::u8, lattice_.codes.extents(), codes.data());
    save_floats(backend, store, path + "/scale", lattice_.scale, true);
    const std::vector<float> left = download(backend, lattice_.left);
    const std::vector<float> right = download(backend, lattice_.right);
    if (!exact && all_signs(left) && all_signs(right)) {
        save_signs(store, path + "/left_signs", left);
        save_signs(store, path + "/right_signs", right);
        return;
    }
    save_floats(backend, store, path + "/left", lattice_.left, exact);
    save_floats(backend, store, path + "/right", lattice_.right, exact);
}

std::unique_ptr<Representation> load_quip(Backend& backend, const StoreReader& store, const std::string& path) {
    constexpr std::int64_t most = std::int64_t{1} << 31;  // keeps every product of sizes far from overflow
    const std::int64_t rows = read_attribute(store, path, "rows", 1, most);
    const std::int64_t columns = read_attribute(store, path, "columns", 1, most);
    const auto code_bits = static_cast<int>(read_attribute(store, path, "code_bits", 2, 4));
    read_attribute(store, path, "group", lattice_group, lattice_group);
    try {
        check_quip_sizes(path, rows, columns);
    } catch (const Error& error) {
        refuse_part(store, path, error.what());
    }
    check_quip_fits(backend, store.path() + ": " + path, rows, columns);
    const bool signs = store.has(path + "/left_signs");
    if (backend.arena().planning()) {
        return std::make_unique<QuipRepresentation>(backend, rows, columns, code_bits, signs);
    }
    // Everything is read and checked before the arena grows. Every code is a point of its codebook.
    const auto codes = read_bytes(store, path + "/codes", {rows, columns / lattice_group, code_bits});
    const auto scale = read_floats(store, path + "/scale", {1});
    const auto side = [&](const char* name, std::int64_t count) {
        const std::string at = path + "/" + name;
        return signs ? read_signs(store, at + "_signs", count) : read_floats(store, at, {count});
    };
    const auto left = side("left", rows);
    const auto right = side("right", columns);
    auto representation = std::make_unique<QuipRepresentation>(backend, rows, columns, code_bits, signs);
    representation->upload(backend, codes, scale[0], left, right);
    return representation;
}

}  // namespace pvtune
