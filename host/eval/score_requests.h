#pragma once

#include "host/eval/score.h"
#include "host/model/config.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace pvtune {

/// A file of requests, and what its answers need.
struct ScoreFile {
    std::vector<ScoreRequest> requests;
    std::vector<nlohmann::ordered_json> ids;  ///< as given, else the number of the request from 0
    std::vector<std::int64_t> lines;          ///< of the file, from 1
    std::int64_t cut = 0;                     ///< requests whose context lost tokens on its left
};

/// Reads JSON lines {"context", "continuation", "id"?}: lists of tokens, or texts that the tokenizer (a tokenizer.json;
/// "": texts are refused) makes tokens of. Contexts are cut on the left to what fits `ctx` tokens. Those that are texts
/// begin with the token `begin`, if any. Throws Error naming file and line.
ScoreFile read_score_requests(const std::string& path, const std::string& tokenizer, const ModelConfig& config,
                              std::int64_t ctx, std::optional<std::uint32_t> begin = std::nullopt);

}  // namespace pvtune
