#pragma once

#include "io/output_file.h"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace pvtune {

/// A tensor as a safetensors header describes it.
struct SafetensorsEntry {
    std::string name;
    std::string type;  ///< "F16", "I8", ...
    std::vector<std::int64_t> shape;
    std::int64_t bytes = 0;
};

/// Writes model.safetensors into a folder, or numbered shards and their index where the tensors exceed shard_bytes.
/// The headers come first, the data of the tensors in any order.
class SafetensorsWriter {
public:
    static constexpr std::int64_t default_shard_bytes = 5'000'000'000;

    /// shown: the folder's name in errors.
    SafetensorsWriter(std::string folder, std::string shown, std::vector<SafetensorsEntry> entries,
                      std::int64_t shard_bytes = default_shard_bytes);

    void write(const std::string& name, std::span<const std::byte> data);
    /// All tensors must have been written. Gives the bytes of all files.
    std::int64_t finish();

private:
    struct Place {
        std::size_t file = 0;
        std::int64_t offset = 0;
        std::int64_t bytes = 0;
    };

    void open_shard(const std::string& name, const std::vector<SafetensorsEntry>& entries);
    void write_index(const std::vector<std::string>& files);

    std::string folder_, shown_;
    std::vector<OutputFile> files_;
    std::vector<std::string> names_;
    std::map<std::string, Place> places_;
    std::size_t written_ = 0;
};

}  // namespace pvtune
