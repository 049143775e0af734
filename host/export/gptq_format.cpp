#include "host/export/matrix_format.h"
#include "host/quant/scalar.h"
#include "host/quant/stored_parts.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

namespace pvtune {

namespace {

constexpr std::int64_t word_bits = 32;

/// values [rows, columns] packed down the columns: 32 rows in code_bits words, the first in the lowest bits. That is
/// GPTQ's order for 2, 3, 4 and 8 bits alike (3: values run on over the ends of words).
std::vector<std::uint32_t> pack_down(const std::vector<std::uint8_t>& values, std::int64_t rows, std::int64_t columns,
                                     std::int64_t code_bits) {
    std::vector<std::uint32_t> words(static_cast<std::size_t>(rows * code_bits / word_bits * columns));
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t first = row * code_bits;
        const std::int64_t shift = first % word_bits;
        for (std::int64_t column = 0; column < columns; ++column) {
            const std::uint64_t bits =
                static_cast<std::uint64_t>(values[static_cast<std::size_t>(row * columns + column)]) << shift;
            const std::int64_t word = first / word_bits * columns + column;
            words[static_cast<std::size_t>(word)] |= static_cast<std::uint32_t>(bits);
            if (bits >> word_bits != 0)
                words[static_cast<std::size_t>(word + columns)] |= static_cast<std::uint32_t>(bits >> word_bits);
        }
    }
    return words;
}

/// [rows, columns] -> [columns, rows]
template <class T>
std::vector<T> transposed(const std::vector<T>& values, std::int64_t rows, std::int64_t columns) {
    std::vector<T> result(values.size());
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t column = 0; column < columns; ++column) {
            result[static_cast<std::size_t>(column * rows + row)] =
                values[static_cast<std::size_t>(row * columns + column)];
        }
    }
    return result;
}

/// The integer zero and the shift of the codes that stand for a grid: codes + shift lie on the grid and the zero within
/// 1 .. levels - 1, the range of a packed zero (stored less one). Where no shift does both, codes at the ends are cut.
struct IntegerGrid {
    std::int64_t zero = 0;
    std::int64_t shift = 0;
    bool cuts = false;
};

IntegerGrid integer_grid(float zero, std::int64_t least, std::int64_t largest, std::int64_t levels) {
    const std::int64_t limit = 4 * levels;  // beyond it a grid is one value anyway
    const std::int64_t rounded = std::clamp(static_cast<std::int64_t>(std::nearbyint(zero)), -limit, limit);
    const std::int64_t from = std::max(-least, 1 - rounded);
    const std::int64_t to = std::min(levels - 1 - largest, levels - 1 - rounded);
    const std::int64_t shift = from <= to ? std::clamp<std::int64_t>(0, from, to)
                                          : std::clamp<std::int64_t>(0, 1 - rounded, levels - 1 - rounded);
    return {rounded + shift, shift, from > to};
}

class GptqFormat : public MatrixFormat {
public:
    explicit GptqFormat(bool round_zeros) : round_zeros_(round_zeros) {}

    std::vector<SafetensorsEntry> parts(const StoreReader& model, const TensorSpec& spec) override {
        const std::string path = "/tensors/" + spec.name;
        const std::string where = model.path() + ": " + spec.name;
        const std::string kind = model.text(path, "representation");
        if (kind != "scalar") {
            throw Error(where + " is in the representation " + kind + ", hf-gptq holds scalar: use --format hf-dense" +
                        (kind == "vq" || kind == "aqlm" ? " or hf-aqlm" : ""));
        }
        const std::int64_t bits = model.integer(path, "code_bits");
        const std::int64_t group = model.integer(path, "group");
        if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
            throw Error(where + " has codes of " + std::to_string(bits) +
                        " bits, hf-gptq holds 2, 3, 4 and 8: use --format hf-dense");
        }
        if (!bits_) bits_ = bits, group_ = group;
        if (bits != *bits_ || group != group_) {
            throw Error(where + " has " + std::to_string(bits) + " bits in groups of " + std::to_string(group) +
                        ", matrices before it " + std::to_string(*bits_) + " in groups of " + std::to_string(group_) +
                        "; hf-gptq has one layout for all: use --format hf-dense");
        }
        const std::int64_t rows = spec.shape[0];
        const std::int64_t columns = spec.shape[1];
        if (rows % word_bits != 0 || columns % word_bits != 0) {
            throw Error(where + " is " + std::to_string(rows) + " x " + std::to_string(columns) +
                        ", hf-gptq packs 32 rows and columns at a time: use --format hf-dense");
        }
        if (!round_zeros_) refuse_real_zeros(model, path, where);
        const std::int64_t grids = model.info(path + "/scales").shape.at(1);
        const std::string module = module_of(spec.name);
        const auto entry = [&](const char* part, const char* type, std::int64_t bytes, std::int64_t height,
                               std::int64_t width) {
            return SafetensorsEntry{module + part, type, {height, width}, bytes * height * width};
        };
        return {entry(".qweight", "I32", 4, columns * bits / word_bits, rows),
                entry(".qzeros", "I32", 4, grids, rows * bits / word_bits),
                entry(".scales", "F16", 2, grids, rows),
                {module + ".g_idx", "I32", {columns}, 4 * columns}};
    }

    std::vector<Bytes> convert(const std::vector<SafetensorsEntry>& parts, const Representation& matrix,
                               RoundingError& error) const override {
        const ScalarCodes& scalar = dynamic_cast<const ScalarRepresentation&>(matrix).scalar();
        const std::int64_t rows = matrix.rows();
        const std::int64_t columns = matrix.columns();
        const std::int64_t grids = scalar.scales.dim(1);
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * columns));
        std::vector<std::uint8_t> zeros(static_cast<std::size_t>(rows * grids));
        std::vector<f16> scales(zeros.size());
        for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t grid = 0; grid < grids; ++grid) {
                const std::int64_t at = row * grids + grid;
                const IntegerGrid integer =
                    pack_grid(codes, scalar, row, grid, columns, scalar.zeros.as<float>()[at], error);
                if (integer.cuts && !round_zeros_) {
                    throw Error(parts[0].name + ": a zero lies outside 1 .. " + std::to_string(scalar.levels - 1) +
                                ", all that hf-gptq holds: add --round-zeros, which cuts the codes of such a group "
                                "(the result says what that costs), or use --format hf-dense");
                }
                zeros[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(integer.zero - 1);
                scales[static_cast<std::size_t>(at)] = from_float<f16>(scalar.scales.as<float>()[at]);
                if (!std::isfinite(to_float(scales[static_cast<std::size_t>(at)])))
                    throw Error(parts[2].name + ": a scale is beyond 16 bits: use --format hf-dense");
            }
        }
        std::vector<std::int32_t> indices(static_cast<std::size_t>(columns));
        for (std::size_t i = 0; i < indices.size(); ++i)
            indices[i] = static_cast<std::int32_t>(static_cast<std::int64_t>(i) / scalar.group);
        // Zeros are packed along the rows of [grids, rows]: down the columns of [rows, grids], and then turned.
        const std::int64_t zero_words = rows * *bits_ / word_bits;
        return {to_bytes(pack_down(transposed(codes, rows, columns), columns, rows, *bits_)),
                to_bytes(transposed(pack_down(zeros, rows, grids, *bits_), zero_words, grids)),
                to_bytes(transposed(scales, rows, grids)), to_bytes(indices)};
    }

    nlohmann::ordered_json config(const std::vector<std::string>& dense) const override {
        if (!dense.empty())
            throw Error("tensor '" + dense.front() +
                        "' is not quantised, hf-gptq wants all block matrices to be: use " + "--format hf-dense");
        return {{"quant_method", "gptq"}, {"bits", *bits_}, {"group_size", group_ == 0 ? -1 : group_},
                {"desc_act", false},      {"sym", false},   {"checkpoint_format", "gptq"},
                {"pack_dtype", "int32"}};
    }

private:
    static void refuse_real_zeros(const StoreReader& model, const std::string& path, const std::string& where) {
        const std::vector<float> zeros = read_floats(model, path + "/zeros", model.info(path + "/zeros").shape);
        const auto real =
            std::find_if(zeros.begin(), zeros.end(), [](float zero) { return zero != std::nearbyint(zero); });
        if (real == zeros.end()) return;
        throw Error(where + ": zeros are numbers such as " + nlohmann::json(*real).dump() +
                    ", hf-gptq holds integers: add --round-zeros (the result says what that costs) or use --format "
                    "hf-dense");
    }

    /// Fills the codes of one grid of a row.
    IntegerGrid pack_grid(std::vector<std::uint8_t>& codes, const ScalarCodes& scalar, std::int64_t row,
                          std::int64_t grid, std::int64_t columns, float zero, RoundingError& error) const {
        const std::int64_t begin = row * columns + grid * scalar.group;
        const std::int64_t end = row * columns + std::min(columns, (grid + 1) * scalar.group);
        const std::uint8_t* source = scalar.codes.as<std::uint8_t>();
        const auto [least, largest] = std::minmax_element(source + begin, source + end);
        const IntegerGrid integer = integer_grid(zero, *least, *largest, scalar.levels);
        const auto scale = static_cast<double>(scalar.scales.as<float>()[row * scalar.scales.dim(1) + grid]);
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t code = std::clamp<std::int64_t>(source[i] + integer.shift, 0, scalar.levels - 1);
            codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(code);
            const double before = scale * (static_cast<double>(source[i]) - static_cast<double>(zero));
            const double after = scale * static_cast<double>(code - integer.zero);
            error.squared_error += (after - before) * (after - before);
            error.squared_norm += before * before;
        }
        return integer;
    }

    bool round_zeros_;
    std::optional<std::int64_t> bits_;
    std::int64_t group_ = 0;
};

}  // namespace

std::unique_ptr<MatrixFormat> make_gptq_format(bool round_zeros) { return std::make_unique<GptqFormat>(round_zeros); }

}  // namespace pvtune
