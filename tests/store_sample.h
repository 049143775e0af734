#pragma once

#include "io/store.h"

#include <cstring>
#include <string>
#include <vector>

/// HDF5 1.10 leaks a little of its own memory whenever it refuses a file; no leak that passes through it is reported.
extern "C" __attribute__((used)) inline const char* __lsan_default_suppressions() { return "leak:libhdf5"; }
extern "C" __attribute__((used)) inline const char* __lsan_default_options() { return "print_suppressions=0"; }

/// A small store with something of everything, for the mutation tests and as a seed for fuzzing.
namespace pvtune::testing {

inline void write_sample_store(const std::string& path) {
    std::vector<std::uint8_t> codes(200);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 37);
    const std::vector<float> scales = {0.5F, 1.0F, -2.0F};
    const std::int64_t step = 42;
    StoreWriter writer(path, "weights", "pvtune quantize small");
    writer.set_text("/", "config", R"({"model_type": "llama"})");
    writer.write("tensors/codes", DType::u8, {50, 4}, codes.data());
    writer.write("tensors/norm", DType::bf16, {60}, codes.data());
    writer.write("tensors/q/scales", DType::f32, {3, 1}, scales.data());
    writer.write("tensors/q/none", DType::f32, {0, 4}, nullptr);
    writer.write("step", DType::i64, {}, &step);
    writer.set_text("tensors/q", "representation", "additive");
    writer.set_integer("tensors/q", "group", 8);
    writer.set_real("tensors/codes", "bits", 2.25);
    writer.commit();
}

/// Everything that a store says, as one string; reading it touches every reader function.
inline std::string content_of(const StoreReader& reader, const std::string& group = "/") {
    std::string all;
    for (const auto& name : reader.children(group)) {
        const std::string path = group == "/" ? name : group + "/" + name;
        all += path + "\n";
        if (reader.is_group(path)) {
            all += content_of(reader, path);
            continue;
        }
        const auto info = reader.info(path);
        std::vector<char> data(static_cast<std::size_t>(info.bytes()));
        reader.read(path, data.data(), info.bytes());
        all += name_of(info.dtype);
        for (const auto extent : info.shape) all += " " + std::to_string(extent);
        all.append(data.begin(), data.end());
    }
    return all;
}

}  // namespace pvtune::testing
