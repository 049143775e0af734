#pragma once

#include "host/model/config.h"

#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <set>

namespace pvtune {

/// The keys of a config.json, or of an object in it, as a family asks for them. A value of the wrong kind is an Error
/// that names file and key; null stands for an absent key. What nobody asked for is refused at the end.
class ConfigKeys {
public:
    /// where: "" or the key of the object in the file.
    ConfigKeys(const nlohmann::json& json, std::string source, std::string where = "");

    bool has(const std::string& key) const;
    /// Whether the file says null.
    bool is_null(const std::string& key) const;
    /// A whole number in [least, most]; the fallback where the key is absent (below 0: an Error).
    std::int64_t integer(const std::string& key, std::int64_t least, std::int64_t most, std::int64_t fallback = -1);
    double positive(const std::string& key, double fallback);
    bool boolean(const std::string& key, bool fallback);
    std::string word(const std::string& key, const std::string& fallback);
    std::vector<std::string> words(const std::string& key);
    std::vector<double> numbers(const std::string& key, std::int64_t count);
    /// An object in the file; it must be there. Its keys are for whoever holds the result to refuse.
    ConfigKeys object(const std::string& key);

    /// Refuses every value of the key but this one.
    void only(const std::string& key, const nlohmann::json& value);
    /// Keys that change nothing.
    void ignore(std::initializer_list<const char*> keys);

    /// The value as the file has it, for errors.
    std::string text(const std::string& key) const;
    /// Throws the Error: the file, `what`.
    [[noreturn]] void fail(const std::string& what) const;
    /// Throws the Error for a value that is not supported.
    [[noreturn]] void refuse(const std::string& key, const std::string& supported) const;
    /// The Error for a key that was not asked for, if there is one.
    void refuse_rest() const;

private:
    const nlohmann::json* find(const std::string& key);

    const nlohmann::json& json_;
    std::string source_, where_;
    std::set<std::string> known_;
};

}  // namespace pvtune
