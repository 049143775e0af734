#include "host/export/matrix_format.h"
#include "host/quant/scalar.h"

#include "io/error.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

namespace pvtune {

namespace {

constexpr std::int64_t block = 32;

std::int64_t block_bytes(bool fifth_bit) { return 2 + 2 + (fifth_bit ? 4 : 0) + block / 2; }

/// 32 weights d * q + m: d and m in 16 bits, then (Q5_1) the fifth bits of all, then bytes with the lower four bits of
/// weights i and i + 16.
void pack_block(std::byte* out, const std::uint8_t* codes, f16 scale, f16 offset, bool fifth_bit) {
    std::memcpy(out, &scale, sizeof(scale));
    std::memcpy(out + sizeof(scale), &offset, sizeof(offset));
    out += sizeof(scale) + sizeof(offset);
    if (fifth_bit) {
        std::uint32_t high = 0;
        for (std::int64_t i = 0; i < block; ++i) high |= static_cast<std::uint32_t>(codes[i] >> 4U) << i;
        std::memcpy(out, &high, sizeof(high));
        out += sizeof(high);
    }
    constexpr unsigned low = 15;
    for (std::int64_t i = 0; i < block / 2; ++i)
        out[i] = static_cast<std::byte>((codes[i] & low) | (codes[i + block / 2] & low) << 4U);
}

class GgufFormat : public MatrixFormat {
public:
    std::vector<SafetensorsEntry> parts(const StoreReader& model, const TensorSpec& spec) override {
        const std::string path = "/tensors/" + spec.name;
        constexpr std::int64_t most_bits = 5;
        if (model.text(path, "representation") != "scalar") return {};
        const std::int64_t bits = model.integer(path, "code_bits");
        // A grid may span blocks, which repeat its scale and offset; a block never spans grids.
        if (bits > most_bits || spec.shape[1] % block != 0) return {};
        const bool fifth_bit = bits == most_bits;
        return {{spec.name, fifth_bit ? "Q5_1" : "Q4_1", spec.shape,
                 spec.shape[0] * spec.shape[1] / block * block_bytes(fifth_bit)}};
    }

    std::vector<Bytes> convert(const std::vector<SafetensorsEntry>& parts, const Representation& matrix,
                               RoundingError& error) const override {
        const ScalarCodes& scalar = dynamic_cast<const ScalarRepresentation&>(matrix).scalar();
        const bool fifth_bit = parts[0].type == "Q5_1";
        const std::int64_t columns = matrix.columns();
        Bytes bytes(static_cast<std::size_t>(parts[0].bytes));
        std::byte* out = bytes.data();
        for (std::int64_t row = 0; row < matrix.rows(); ++row) {
            for (std::int64_t column = 0; column < columns; column += block, out += block_bytes(fifth_bit)) {
                const std::int64_t grid = row * scalar.scales.dim(1) + column / scalar.group;
                const float scale = scalar.scales.as<float>()[grid];
                const float zero = scalar.zeros.as<float>()[grid];
                const f16 d = from_float<f16>(scale);
                const f16 m = from_float<f16>(-scale * zero);
                if (!std::isfinite(to_float(d)) || !std::isfinite(to_float(m)))
                    throw Error(parts[0].name + ": a grid of row " + std::to_string(row) +
                                " is beyond 16 bits: use --dense");
                const std::uint8_t* codes = scalar.codes.as<std::uint8_t>() + row * columns + column;
                pack_block(out, codes, d, m, fifth_bit);
                for (std::int64_t i = 0; i < block; ++i) {
                    const double code = codes[i];
                    const double before = static_cast<double>(scale) * (code - static_cast<double>(zero));
                    const double after = static_cast<double>(to_float(d)) * code + static_cast<double>(to_float(m));
                    error.squared_error += (after - before) * (after - before);
                    error.squared_norm += before * before;
                }
            }
        }
        return {bytes};
    }

    nlohmann::ordered_json config(const std::vector<std::string>& /*dense*/) const override { return {}; }
};

}  // namespace

std::unique_ptr<MatrixFormat> make_gguf_format() { return std::make_unique<GgufFormat>(); }

}  // namespace pvtune
