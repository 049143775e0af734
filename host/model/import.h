#pragma once

#include "host/model/config.h"

#include <functional>
#include <string>

namespace pvtune {

struct ImportResult {
    std::int64_t tensors = 0;
    std::int64_t parameters = 0;
    std::int64_t bytes = 0;  ///< of the tensors
    std::string content_hash;
};

/// What an import will take, from the headers alone.
struct ImportPlan {
    ModelConfig config;
    std::int64_t tensors = 0;
    std::int64_t parameters = 0;
    std::int64_t bytes = 0;
    std::int64_t largest = 0;  ///< bytes of the largest tensor
};

/// Checks config.json and the names, shapes and types of all tensors of a Hugging Face folder. Throws Error for a
/// tensor that is missing, misshapen, of a type other than f32, bf16 and f16, or that the config does not know.
ImportPlan plan_import(const std::string& folder);

/// Copies the tensors as they are into a weights store. A NaN or an infinity is an Error that names the tensor.
/// progress(name, weights) after each tensor; it may throw to stop.
ImportResult import_model(const std::string& folder, const std::string& out, const std::string& command,
                          const std::function<void(const std::string&, std::int64_t)>& progress);

}  // namespace pvtune
