// Writes the first inputs of every fuzz target: seeds FOLDER makes FOLDER/store, FOLDER/safetensors, FOLDER/config.
#include "tests/store_sample.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

namespace {

void write_file(const std::filesystem::path& path, const std::string& content) {
    std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
}

void write_stores(const std::filesystem::path& folder) {
    pvtune::testing::write_sample_store(folder / "sample");
    std::vector<std::uint32_t> tokens(400'000, 7);
    pvtune::StoreWriter chunked(folder / "chunked", "tokens", "pvtune tokens");  // more than one chunk
    chunked.write("tokens", pvtune::DType::u32, {static_cast<std::int64_t>(tokens.size())}, tokens.data());
    chunked.commit();
    pvtune::StoreWriter crowded(folder / "crowded", "checkpoint", "pvtune tune");  // groups with an index of links
    for (int i = 0; i < 12; ++i) crowded.write("t" + std::to_string(i), pvtune::DType::u8, {4}, "abcd");
    crowded.commit();
}

void write_safetensors(const std::filesystem::path& folder) {
    const std::string header =
        R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
        R"("b":{"dtype":"F32","shape":[],"data_offsets":[12,16]},"c":{"dtype":"I64","shape":[0],"data_offsets":[16,16]}})";
    const std::uint64_t length = header.size();
    std::string file(sizeof length, '\0');
    std::memcpy(file.data(), &length, sizeof length);
    write_file(folder / "sample", file + header + std::string(16, 'x'));
}

void write_configs(const std::filesystem::path& folder) {
    write_file(
        folder / "sample",
        R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","attention_bias":false,"hidden_act":"silu",)"
        R"("hidden_size":576,"intermediate_size":1536,"max_position_embeddings":8192,"num_attention_heads":9,)"
        R"("num_hidden_layers":30,"num_key_value_heads":3,"head_dim":64,"rms_norm_eps":1e-05,"rope_scaling":null,)"
        R"("rope_theta":100000,"tie_word_embeddings":true,"torch_dtype":"bfloat16","vocab_size":49152})");
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) {
        std::cerr << "usage: seeds FOLDER\n";
        return 2;
    }
    const std::filesystem::path folder = arguments[1];
    for (const char* name : {"store", "safetensors", "config"}) std::filesystem::create_directories(folder / name);
    write_stores(folder / "store");
    write_safetensors(folder / "safetensors");
    write_configs(folder / "config");
    return 0;
}
