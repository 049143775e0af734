#include "host/commands/flags.h"

#include "io/error.h"

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace pvtune {

std::vector<std::string> flags_without_effect(const CLI::App& command, std::span<const FlagUse> flags) {
    std::vector<std::string> unused;
    for (const FlagUse& flag : flags) {
        if (flag.used || command.count(flag.name) == 0) continue;
        unused.push_back(std::string(flag.name) + " has no effect with " + flag.where + ": " + flag.users);
    }
    return unused;
}

CLI::Validator real_range(double low, double high) {
    const CLI::Validator number(
        [](const std::string& text) {
            return std::isnan(std::strtod(text.c_str(), nullptr)) ? "not a number: " + text : std::string();
        },
        "");
    return CLI::Range(low, high) & number;
}

CLI::Option* add_bos_flag(CLI::App& command, std::string& bos, const std::string& what) {
    return command
        .add_option(
            "--bos", bos,
            "begin " + what + " with the model's bos_token_id; auto: for families that know no other texts (Gemma)")
        ->check(CLI::IsMember({"auto", "on", "off"}))
        ->capture_default_str();
}

std::optional<std::uint32_t> begin_token(const ModelConfig& config, const std::string& bos) {
    if (bos == "off" || (bos == "auto" && !config.family.starts_with("gemma"))) return std::nullopt;
    const nlohmann::json json = nlohmann::json::parse(config.json);
    const auto id = json.find("bos_token_id");
    if (id == json.end() || !id->is_number_unsigned() || id->get<std::int64_t>() >= config.vocabulary) {
        throw Error("--bos " + bos + ": the model's config.json has no bos_token_id in its vocabulary: use --bos off");
    }
    return id->get<std::uint32_t>();
}

void begin_windows(TokenText& text, std::int64_t length, const ModelConfig& config, const std::string& bos) {
    const std::optional<std::uint32_t> token = begin_token(config, bos);
    if (!token) return;
    for (std::size_t at = 0; at < text.tokens.size(); at += static_cast<std::size_t>(length)) text.tokens[at] = *token;
    text.content_hash += "+bos" + std::to_string(*token);
}

}  // namespace pvtune
