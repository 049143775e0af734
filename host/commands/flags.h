#pragma once

#include "host/common/token_store.h"
#include "host/model/config.h"

#include <CLI/CLI.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pvtune {

/// What reads a flag.
struct FlagUse {
    const char* name;
    bool used;          ///< by a run of these settings
    std::string where;  ///< what of the settings does not: "--strategy pv"
    const char* users;  ///< "pv-ste uses it"
};

/// A line for each flag that was given and that nothing reads.
std::vector<std::string> flags_without_effect(const CLI::App& command, std::span<const FlagUse> flags);

/// A number from `low` to `high`; CLI::Range alone lets NaN pass.
CLI::Validator real_range(double low, double high);

/// Adds --bos, which says whether `what` begins with the model's own first token.
CLI::Option* add_bos_flag(CLI::App& command, std::string& bos, const std::string& what);

/// The token that texts begin with by --bos ("auto", "on", "off"), if any; auto: for families that know no other texts
/// (Gemma). Throws Error where it is wanted and config.json names none.
std::optional<std::uint32_t> begin_token(const ModelConfig& config, const std::string& bos);

/// Puts that token into the first place of every window of `length` tokens; the text's hash tells.
void begin_windows(TokenText& text, std::int64_t length, const ModelConfig& config, const std::string& bos);

}  // namespace pvtune
