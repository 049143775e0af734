#include "host/bench/shape.h"

#include "io/error.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <sstream>

namespace pvtune {

namespace {

/// SmolLM2-135M with the demo's batch; Llama-3.2-1B, Llama-2-7B and Llama-3-70B with one sequence of 4096 tokens.
const std::array<BenchShape, 4> models = {{{"smollm2", 2, 1024, 576, 1536, 9, 3, 64, 49152},
                                           {"1b", 1, 4096, 2048, 8192, 32, 8, 64, 128256},
                                           {"7b", 1, 4096, 4096, 11008, 32, 32, 128, 32000},
                                           {"70b", 1, 4096, 8192, 28672, 64, 8, 128, 128256}}};

struct Size {
    const char* name;
    std::int64_t BenchShape::*member;
};
constexpr std::array<Size, 8> sizes = {{{"sequences", &BenchShape::sequences},
                                        {"length", &BenchShape::length},
                                        {"width", &BenchShape::width},
                                        {"intermediate", &BenchShape::intermediate},
                                        {"heads", &BenchShape::heads},
                                        {"kv_heads", &BenchShape::kv_heads},
                                        {"head_dim", &BenchShape::head_dim},
                                        {"vocabulary", &BenchShape::vocabulary}}};
constexpr std::int64_t largest_size = std::int64_t{1} << 24;

std::int64_t number(const std::string& flag, const std::string& text) {
    std::int64_t value = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, value);
    if (parsed.ec != std::errc{} || parsed.ptr != end || value < 1 || value > largest_size)
        throw Error(flag + ": '" + text + "' is not a whole number from 1 to " + std::to_string(largest_size));
    return value;
}

void set_size(BenchShape& shape, const std::string& flag, const std::string& key, const std::string& text) {
    const std::int64_t value = number(flag, text);
    if (key == "tokens") {
        shape.sequences = 1;
        shape.length = value;
        return;
    }
    const auto* size = std::find_if(sizes.begin(), sizes.end(), [&](const Size& s) { return s.name == key; });
    if (size == sizes.end()) {
        std::string known = "tokens";
        for (const Size& s : sizes) known += std::string(", ") + s.name;
        throw Error(flag + ": there is no size '" + key + "' (there are " + known + ")");
    }
    shape.*(size->member) = value;
}

void check(const BenchShape& shape, const std::string& flag) {
    if (shape.width % 8 != 0) throw Error(flag + ": width must be a multiple of 8, the weights of a group");
    if (shape.heads % shape.kv_heads != 0) throw Error(flag + ": heads must be a multiple of kv_heads");
    if (shape.head_dim % 2 != 0 || shape.head_dim > 256)
        throw Error(flag + ": head_dim must be an even number up to 256");
}

}  // namespace

BenchShape parse_shape(const std::string& text) {
    const std::string flag = "--shape " + text;
    BenchShape shape = models.front();
    std::istringstream items(text);
    std::string item;
    for (bool first = true; std::getline(items, item, ','); first = false) {
        const std::size_t equals = item.find('=');
        if (equals != item.npos) {
            set_size(shape, flag, item.substr(0, equals), item.substr(equals + 1));
            continue;
        }
        const auto* model = std::find_if(models.begin(), models.end(), [&](const auto& m) { return m.name == item; });
        if (!first || model == models.end()) {
            std::string known;
            for (const BenchShape& m : models) known += (known.empty() ? "" : ", ") + m.name;
            throw Error(flag + ": '" + item + "' is neither a model (" + known + ", first) nor a size (width=4096)");
        }
        shape = *model;
    }
    if (text.empty()) throw Error("--shape: name a model or sizes, e.g. 7b,tokens=256");
    shape.name = text;
    check(shape, flag);
    return shape;
}

nlohmann::ordered_json sizes_json(const BenchShape& shape) {
    nlohmann::ordered_json found;
    for (const Size& size : sizes) found[size.name] = shape.*(size.member);
    return found;
}

}  // namespace pvtune
