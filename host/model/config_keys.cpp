#include "host/model/config_keys.h"

#include "host/common/text.h"
#include "io/error.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace pvtune {

ConfigKeys::ConfigKeys(const nlohmann::json& json, std::string source, std::string where)
    : json_(json), source_(std::move(source)), where_(std::move(where)) {}

const nlohmann::json* ConfigKeys::find(const std::string& key) {
    known_.insert(key);
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigKeys::has(const std::string& key) const {
    const auto found = json_.find(key);
    return found != json_.end() && !found->is_null();
}

bool ConfigKeys::is_null(const std::string& key) const {
    const auto found = json_.find(key);
    return found != json_.end() && found->is_null();
}

std::string ConfigKeys::text(const std::string& key) const {
    constexpr std::size_t most = 60;
    const std::string text = json_.at(key).dump();
    return text.size() > most ? text.substr(0, most) + "..." : text;
}

void ConfigKeys::fail(const std::string& what) const {
    throw Error(source_ + ": " + one_line((where_.empty() ? "" : "in \"" + where_ + "\": ") + what));
}

void ConfigKeys::refuse(const std::string& key, const std::string& supported) const {
    fail("\"" + key + "\" is " + text(key) + ", which is not supported; supported: " + supported);
}

std::int64_t ConfigKeys::integer(const std::string& key, std::int64_t least, std::int64_t most, std::int64_t fallback) {
    const auto* found = find(key);
    if (found == nullptr) {
        if (fallback >= 0) return fallback;
        fail("has no \"" + key + "\": not a complete config.json of a language model");
    }
    if (!found->is_number_integer()) fail("\"" + key + "\" is " + text(key) + ", not a whole number");
    const auto value = found->get<std::int64_t>();
    if (value < least || value > most) {
        fail("\"" + key + "\" is " + text(key) + ", outside " + std::to_string(least) + ".." + std::to_string(most));
    }
    return value;
}

double ConfigKeys::positive(const std::string& key, double fallback) {
    const auto* found = find(key);
    if (found == nullptr) return fallback;
    if (!found->is_number() || !std::isfinite(found->get<double>()) || found->get<double>() <= 0) {
        fail("\"" + key + "\" is " + text(key) + ", not a positive number");
    }
    return found->get<double>();
}

bool ConfigKeys::boolean(const std::string& key, bool fallback) {
    const auto* found = find(key);
    if (found == nullptr) return fallback;
    if (!found->is_boolean()) fail("\"" + key + "\" is " + text(key) + ", not true or false");
    return found->get<bool>();
}

std::string ConfigKeys::word(const std::string& key, const std::string& fallback) {
    const auto* found = find(key);
    if (found == nullptr) return fallback;
    if (!found->is_string()) fail("\"" + key + "\" is " + text(key) + ", not a word");
    return found->get<std::string>();
}

std::vector<std::string> ConfigKeys::words(const std::string& key) {
    const auto* found = find(key);
    if (found == nullptr) return {};
    const auto is_word = [](const nlohmann::json& item) { return item.is_string(); };
    if (!found->is_array() || !std::all_of(found->begin(), found->end(), is_word)) {
        fail("\"" + key + "\" is " + text(key) + ", not a list of words");
    }
    return found->get<std::vector<std::string>>();
}

std::vector<double> ConfigKeys::numbers(const std::string& key, std::int64_t count) {
    const auto* found = find(key);
    if (found == nullptr) fail("has no \"" + key + "\"");
    const auto usable = [](const nlohmann::json& item) {
        return item.is_number() && std::isfinite(item.get<double>()) && item.get<double>() > 0;
    };
    if (!found->is_array() || static_cast<std::int64_t>(found->size()) != count ||
        !std::all_of(found->begin(), found->end(), usable)) {
        fail("\"" + key + "\" is " + text(key) + ", not a list of " + std::to_string(count) + " positive numbers");
    }
    return found->get<std::vector<double>>();
}

ConfigKeys ConfigKeys::object(const std::string& key) {
    const auto* found = find(key);
    if (found == nullptr) fail("has no \"" + key + "\"");
    if (!found->is_object()) fail("\"" + key + "\" is " + text(key) + ", not an object");
    return {*found, source_, where_.empty() ? key : where_ + "." + key};
}

void ConfigKeys::only(const std::string& key, const nlohmann::json& value) {
    const auto* found = find(key);
    if (found != nullptr && *found != value) refuse(key, value.dump());
}

void ConfigKeys::ignore(std::initializer_list<const char*> keys) { known_.insert(keys.begin(), keys.end()); }

void ConfigKeys::refuse_rest() const {
    for (const auto& [key, value] : json_.items()) {
        if (value.is_null() || known_.contains(key)) continue;
        fail("\"" + key + "\" is " + text(key) +
             ", a key that is not supported; if it does not change what the model computes, remove it");
    }
}

}  // namespace pvtune
