#include "io/store_catalog.h"

#include "io/error.h"

#include <array>
#include <cstring>
#include <memory>
#include <type_traits>

namespace pvtune::catalog {
namespace {

constexpr std::size_t longest_path = 1000;  // the links of a group hold names of up to 4 KiB under a checksum

/// Feeds a hash with fields that cannot run into each other: texts carry their length.
class Digest {
public:
    Digest() : state_(XXH3_createState(), XXH3_freeState) {
        if (state_ == nullptr) throw std::bad_alloc();
        XXH3_128bits_reset(state_.get());
    }
    void add(const void* data, std::size_t bytes) { XXH3_128bits_update(state_.get(), data, bytes); }
    void add(std::int64_t value) { add(&value, sizeof value); }
    void add(double value) { add(&value, sizeof value); }
    void add(std::string_view text) {
        add(static_cast<std::int64_t>(text.size()));
        add(text.data(), text.size());
    }
    XXH128_canonical_t finish() const {
        XXH128_canonical_t canonical{};
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
        return canonical;
    }

private:
    std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

void add_attribute(Digest& digest, const std::string& name, const Attribute& attribute) {
    constexpr std::array<std::string_view, 3> kinds = {"text", "integer", "real"};
    digest.add(std::string_view(name));
    digest.add(kinds[attribute.index()]);
    std::visit(
        [&](const auto& value) {
            if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>)
                digest.add(std::string_view(value));
            else
                digest.add(value);
        },
        attribute);
}

}  // namespace

std::string absolute(std::string_view path) {
    if (path.starts_with('/')) path.remove_prefix(1);
    if (path.empty()) return "/";
    if (path.size() > longest_path) return {};
    std::string result;
    while (true) {
        const auto slash = path.find('/');
        const auto part = path.substr(0, slash);
        if (part.empty() || part == "." || part == ".." || part.find('\0') != part.npos) return {};
        result += '/';
        result += part;
        if (slash == path.npos) return result;
        path.remove_prefix(slash + 1);
    }
}

std::string content_hash(const Catalog& catalog) {
    Digest digest;
    for (const auto& [path, object] : catalog) {
        digest.add(std::string_view(path));
        if (object.is_group) {
            digest.add(std::string_view("group"));
        } else {
            digest.add(name_of(object.info.dtype));
            digest.add(static_cast<std::int64_t>(object.info.shape.size()));
            for (const auto extent : object.info.shape) digest.add(extent);
            XXH128_canonical_t canonical{};
            XXH128_canonicalFromHash(&canonical, object.data_hash);
            digest.add(canonical.digest, sizeof canonical.digest);
        }
        const bool root = path == "/";
        for (const auto& [name, attribute] : object.attributes)
            if (!root || (name != "command" && name != "content_hash")) add_attribute(digest, name, attribute);
    }
    std::string hex;
    for (const unsigned char byte : digest.finish().digest) {
        constexpr std::string_view digits = "0123456789abcdef";
        hex += digits[byte >> 4];
        hex += digits[byte & 15];
    }
    return hex;
}

void fail_damaged(const std::string& path, const std::string& what) {
    throw Error(path + ": is damaged (" + what + "): restore a copy or make it again");
}

void fail_foreign(const std::string& path, const std::string& what) {
    throw Error(path + ": is not a store of pvtune (" + what + "): check the path");
}

void fail_reading(const std::string& path, const hdf5::File& raw, const std::string& what) {
    const std::string reason = hdf5::take_message();
    if (raw.error != 0) throw Error(path + ": cannot be read (" + std::strerror(raw.error) + "): check the disk");
    fail_damaged(path, what + ": " + reason);
}

std::string to_text(const std::vector<std::int64_t>& shape) {
    std::string result = "[";
    for (const auto extent : shape) {
        if (result.size() > 1) result += ", ";
        result += std::to_string(extent);
    }
    return result + "]";
}

}  // namespace pvtune::catalog
