#pragma once

#include "io/store.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace pvtune {

/// Memory-mapped tensors of a Hugging Face folder: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` lists. Headers are checked in full on opening: a damaged, truncated or hostile file
/// is an Error, and no offset is trusted.
class SafetensorsFolder {
public:
    /// path: a folder, or one .safetensors file.
    explicit SafetensorsFolder(const std::string& path);
    ~SafetensorsFolder();
    SafetensorsFolder(const SafetensorsFolder&) = delete;
    SafetensorsFolder& operator=(const SafetensorsFolder&) = delete;

    std::vector<std::string> names() const;
    bool has(const std::string& name) const;
    const TensorInfo& info(const std::string& name) const;
    /// The tensor's bytes inside the mapping; may be unaligned for its dtype.
    const std::byte* data(const std::string& name) const;
    /// Throws Error if a file was written to since it was opened: asked once all data() has been used.
    void check_unchanged() const;
    /// The file that holds the tensor, for error messages.
    const std::string& file_of(const std::string& name) const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace pvtune
