#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace pvtune {

/// The sizes that operations are timed at: a block of a model, its vocabulary, and the tokens that go through at once.
struct BenchShape {
    std::string name;  ///< as the user gave it
    std::int64_t sequences = 0, length = 0;
    std::int64_t width = 0, intermediate = 0;
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
    std::int64_t vocabulary = 0;

    std::int64_t tokens() const { return sequences * length; }
};

/// "7b", "7b,tokens=256", "width=64,heads=4,...": a model, then sizes that differ from its own (SmolLM2's where no
/// model is named). tokens=N: one sequence of N. Throws Error for what no kernel covers.
BenchShape parse_shape(const std::string& text);

nlohmann::ordered_json sizes_json(const BenchShape& shape);

}  // namespace pvtune
