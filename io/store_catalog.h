#pragma once

#include "io/hdf5_handles.h"
#include "io/store.h"

#include <xxhash.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>

/// What a store holds, apart from its data: the writer gathers it for the content hash, the reader takes it all in on
/// opening so that damaged metadata shows before any work. Private to io/.
namespace pvtune::catalog {

using Attribute = std::variant<std::string, std::int64_t, double>;

struct Object {
    bool is_group = true;
    TensorInfo info;            ///< of a dataset
    XXH128_hash_t data_hash{};  ///< of a dataset's bytes; the reader leaves it empty until verify()
    std::map<std::string, Attribute> attributes;
};

/// By absolute path; "/" is always there.
using Catalog = std::map<std::string, Object>;

inline constexpr int largest_rank = 8;
/// An attribute lives in its object's header, whose message cannot exceed 64 KiB. (HDF5 would put a larger one
/// elsewhere, where no checksum guards it.)
inline constexpr std::size_t largest_text = 60'000;

/// The absolute form of an object's path: "a/b" -> "/a/b". Empty for one that is not acceptable ("..", "a//b", too
/// long).
std::string absolute(std::string_view path);

/// 32 hex digits: XXH3-128 over all objects in order of path (path, dtype, shape, hash of the data, attributes),
/// without the root's `command` and `content_hash`. Neither the order of writing nor the chunking matters.
std::string content_hash(const Catalog& catalog);

/// Reads the attributes of an open object; `name` is for errors.
std::map<std::string, Attribute> read_attributes(const std::string& path, const hdf5::File& raw, hid_t object,
                                                 const std::string& name);
/// Walks the whole file; anything that the writer would not have made is an Error.
Catalog read(const std::string& path, const hdf5::File& raw, hid_t file);

/// Errors of one line each.
[[noreturn]] void fail_damaged(const std::string& path, const std::string& what);
[[noreturn]] void fail_foreign(const std::string& path, const std::string& what);
/// An error of HDF5 while reading: the disk's own error where there is one, otherwise damage.
[[noreturn]] void fail_reading(const std::string& path, const hdf5::File& raw, const std::string& what);
/// "[2, 3]"
std::string to_text(const std::vector<std::int64_t>& shape);

}  // namespace pvtune::catalog
