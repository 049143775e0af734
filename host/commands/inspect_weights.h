#pragma once

#include "host/commands/commands.h"
#include "io/store.h"

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace pvtune {

/// `inspect` of a weights file: prints the config, a table of tensors (every one, or summed by kind) and the bits a
/// weight, and adds them to result. against: a dense file to measure the relative error of the block matrices to, or
/// "".
void inspect_weights(const CommonOptions& common, const StoreReader& store, const std::string& against,
                     bool every_tensor, nlohmann::ordered_json& result);

}  // namespace pvtune
