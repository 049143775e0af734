#include "io/safetensors_writer.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace pvtune {

namespace {

using Json = nlohmann::ordered_json;

std::string shard_name(std::size_t index, std::size_t count) {
    if (count == 1) return "model.safetensors";
    std::array<char, 64> name{};
    std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", index + 1, count);
    return name.data();
}

std::int64_t element_bytes(const SafetensorsEntry& entry) {
    std::int64_t count = 1;
    for (const auto extent : entry.shape) count *= extent;
    return count > 0 ? entry.bytes / count : 1;
}

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string folder, std::string shown, std::vector<SafetensorsEntry> entries,
                                     std::int64_t shard_bytes)
    : folder_(std::move(folder)), shown_(std::move(shown)) {
    std::vector<std::vector<SafetensorsEntry>> shards(1);
    std::int64_t size = 0;
    for (SafetensorsEntry& entry : entries) {
        if (!shards.back().empty() && size + entry.bytes > shard_bytes) {
            shards.emplace_back();
            size = 0;
        }
        size += entry.bytes;
        shards.back().push_back(std::move(entry));
    }
    for (std::size_t i = 0; i < shards.size(); ++i) {
        // Readers map tensors as they lie, and there are no holes: the widest types first keeps all aligned.
        std::stable_sort(shards[i].begin(), shards[i].end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
            return element_bytes(a) > element_bytes(b);
        });
        open_shard(shard_name(i, shards.size()), shards[i]);
    }
}

void SafetensorsWriter::open_shard(const std::string& name, const std::vector<SafetensorsEntry>& entries) {
    Json header = {{"__metadata__", {{"format", "pt"}}}};
    std::int64_t end = 0;
    for (const SafetensorsEntry& entry : entries) {
        header[entry.name] = {
            {"dtype", entry.type}, {"shape", entry.shape}, {"data_offsets", {end, end + entry.bytes}}};
        end += entry.bytes;
    }
    std::string text = header.dump();
    constexpr std::size_t alignment = 8;
    text.append((alignment - text.size() % alignment) % alignment, ' ');
    std::string prefix(sizeof(std::uint64_t), '\0');
    const std::uint64_t length = text.size();
    std::memcpy(prefix.data(), &length, sizeof(length));
    text = prefix + text;

    std::int64_t offset = static_cast<std::int64_t>(text.size());
    for (const SafetensorsEntry& entry : entries) {
        if (!places_.emplace(entry.name, Place{files_.size(), offset, entry.bytes}).second)
            throw std::logic_error("tensor '" + entry.name + "' twice");
        offset += entry.bytes;
    }
    files_.emplace_back(folder_ + "/" + name, shown_ + "/" + name);
    names_.push_back(name);
    files_.back().write(0, bytes_of(text));
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> data) {
    const Place& place = places_.at(name);
    if (place.bytes != static_cast<std::int64_t>(data.size()))
        throw std::logic_error("tensor '" + name + "' has " + std::to_string(data.size()) + " bytes");
    files_[place.file].write(place.offset, data);
    ++written_;
}

void SafetensorsWriter::write_index(const std::vector<std::string>& files) {
    Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
    std::int64_t total = 0;
    for (const auto& [name, place] : places_) {
        index["weight_map"][name] = files[place.file];
        total += place.bytes;
    }
    index["metadata"]["total_size"] = total;
    const std::string name = "/model.safetensors.index.json";
    OutputFile file(folder_ + name, shown_ + name);
    file.write(0, bytes_of(index.dump(2) + "\n"));
    file.finish();
}

std::int64_t SafetensorsWriter::finish() {
    if (written_ != places_.size()) throw std::logic_error("tensors of " + shown_ + " are missing");
    std::int64_t bytes = 0;
    for (OutputFile& file : files_) {
        bytes += file.size();
        file.finish();
    }
    if (files_.size() > 1) write_index(names_);
    return bytes;
}

}  // namespace pvtune
