#include "io/safetensors.h"

#include "io/error.h"
#include "io/file_state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

namespace pvtune {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t largest_header = 100'000'000;  // the limit of the safetensors library
constexpr int deepest_json = 4;
constexpr std::size_t largest_rank = 16;

[[noreturn]] void fail_damaged(const std::string& path, const std::string& what) {
    throw Error(path + ": is damaged (" + what + "): download it again");
}

/// A file mapped whole and read-only.
class Mapping {
public:
    explicit Mapping(const std::string& path) : path_(path) {
        const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (descriptor < 0 && (errno == ENOENT || errno == ENOTDIR))
            throw Error(path + ": no such file: check the path, or download the model again");
        struct stat status {};
        if (descriptor < 0 || ::fstat(descriptor, &status) != 0) fail_reading(descriptor);
        if (!S_ISREG(status.st_mode)) {
            ::close(descriptor);
            throw Error(path + ": is no regular file: name a .safetensors file or a model's folder");
        }
        size_ = static_cast<std::size_t>(status.st_size);
        if (size_ > 0) {
            void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
            if (mapped == MAP_FAILED) fail_reading(descriptor);
            data_ = static_cast<const std::byte*>(mapped);
        }
        descriptor_ = descriptor;
        state_ = FileState(descriptor);
    }
    ~Mapping() {
        ::close(descriptor_);
        if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;

    const std::string& path() const { return path_; }
    void check_unchanged() const { state_.check_unchanged(descriptor_, path_); }
    const std::byte* data() const { return data_; }
    std::size_t size() const { return size_; }
    std::string_view text(std::size_t offset, std::size_t count) const {
        return {reinterpret_cast<const char*>(data_) + offset, count};
    }

private:
    [[noreturn]] void fail_reading(int descriptor) const {
        const std::string reason = std::strerror(errno);
        if (descriptor >= 0) ::close(descriptor);
        throw Error(path_ + ": cannot be read (" + reason + "): check the path and its permissions");
    }

    std::string path_;
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
    int descriptor_ = -1;
    FileState state_;
};

/// Parses an object, refusing what the parser alone would let pass: a name given twice and deep nesting.
Json parse_object(const std::string& path, std::string_view text) {
    std::vector<std::set<std::string>> names;  // those seen in each object that is still open
    const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
        if (depth > deepest_json) fail_damaged(path, "its JSON is nested too deeply");
        if (event == Json::parse_event_t::object_start) names.emplace_back();
        if (event == Json::parse_event_t::object_end) names.pop_back();
        if (event == Json::parse_event_t::key && !names.back().insert(value.get<std::string>()).second)
            fail_damaged(path, "the name '" + printable(value.get<std::string>()) + "' appears twice");
        return true;
    };
    try {
        Json json = Json::parse(text.begin(), text.end(), check);
        if (!json.is_object()) fail_damaged(path, "its header is not a JSON object");
        return json;
    } catch (const Json::exception& error) {
        fail_damaged(path, "its header is not JSON: " + printable(error.what()));
    }
}

std::optional<DType> dtype_from(std::string_view name) {
    // Signed integers of 8 and 16 bits come as their bits: they are codes (AQLM), which wrap around.
    constexpr std::array<std::pair<std::string_view, DType>, 11> known = {{{"F32", DType::f32},
                                                                           {"BF16", DType::bf16},
                                                                           {"F16", DType::f16},
                                                                           {"F64", DType::f64},
                                                                           {"U8", DType::u8},
                                                                           {"U16", DType::u16},
                                                                           {"U32", DType::u32},
                                                                           {"I32", DType::i32},
                                                                           {"I64", DType::i64},
                                                                           {"I8", DType::u8},
                                                                           {"I16", DType::u16}}};
    for (const auto& [text, dtype] : known)
        if (name == text) return dtype;
    return std::nullopt;
}

/// One tensor as a header describes it.
struct Entry {
    TensorInfo info;
    std::uint64_t begin = 0;  ///< from the start of the data
    std::uint64_t end = 0;
};

/// Checks one entry of a header against the number of bytes of data that the file holds.
Entry parse_entry(const std::string& path, const std::string& name, const Json& json, std::uint64_t available) {
    const std::string what = "tensor '" + printable(name) + "' ";
    const auto list = [&](const char* key) {
        const auto found = json.find(key);
        const bool good =
            found != json.end() && found->is_array() &&
            std::all_of(found->begin(), found->end(), [](const Json& n) { return n.is_number_unsigned(); });
        if (!good) fail_damaged(path, what + "has no usable " + key);
        return found->get<std::vector<std::uint64_t>>();
    };
    if (!json.is_object()) fail_damaged(path, what + "is not described by an object");
    const auto dtype = json.find("dtype");
    if (dtype == json.end() || !dtype->is_string()) fail_damaged(path, what + "has no dtype");
    Entry entry;
    const auto known = dtype_from(dtype->get_ref<const std::string&>());
    if (!known)
        throw Error(path + ": " + what + "has the dtype '" + printable(dtype->get_ref<const std::string&>()) +
                    "', which pvtune does not read: convert it to BF16, F16 or F32");
    entry.info.dtype = *known;

    const auto shape = list("shape");
    if (shape.size() > largest_rank) fail_damaged(path, what + "has too many dimensions");
    auto bytes = static_cast<std::uint64_t>(size_of(*known));
    // Extents of an empty tensor could still overflow, so they are bounded even where the product is zero.
    constexpr std::uint64_t largest_extent = std::numeric_limits<std::int64_t>::max() >> 20;
    for (const std::uint64_t extent : shape) {
        if (extent > largest_extent || (extent != 0 && bytes > std::numeric_limits<std::int64_t>::max() / extent))
            fail_damaged(path, what + "is impossibly large");
        bytes *= extent;
        entry.info.shape.push_back(static_cast<std::int64_t>(extent));
    }
    const auto offsets = list("data_offsets");
    if (offsets.size() != 2 || offsets[0] > offsets[1]) fail_damaged(path, what + "has no usable data_offsets");
    entry.begin = offsets[0];
    entry.end = offsets[1];
    if (entry.end > available)
        fail_damaged(path, what + "ends at byte " + std::to_string(entry.end) + " of the data, which has " +
                               std::to_string(available) + "; the file is truncated");
    if (entry.end - entry.begin != bytes)
        fail_damaged(path, what + "has " + std::to_string(entry.end - entry.begin) +
                               " bytes, its shape and dtype need " + std::to_string(bytes));
    return entry;
}

struct Tensor {
    TensorInfo info;
    const std::byte* data = nullptr;
    const Mapping* file = nullptr;
};

/// All tensors of one file. As the safetensors library does, refuses overlaps, holes and bytes that no tensor owns.
std::map<std::string, Tensor> parse_header(const Mapping& file) {
    const std::string& path = file.path();
    constexpr std::uint64_t prefix = 8;  // the header's length
    if (file.size() == 0) fail_damaged(path, "it is empty");
    if (file.size() < prefix) fail_damaged(path, "it is truncated inside the length of its header");
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), prefix);
    if (length > largest_header)
        throw Error(path + ": is not a safetensors file (a header of " + std::to_string(length) +
                    " bytes): check the path, or download it again");
    if (length > file.size() - prefix) fail_damaged(path, "it is truncated inside its header");
    const Json json = parse_object(path, file.text(prefix, length));

    const std::uint64_t start = prefix + length;
    const std::uint64_t available = file.size() - start;
    struct Range {
        std::uint64_t begin;
        std::uint64_t end;
        std::string name;
    };
    std::vector<Range> ranges;
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, value] : json.items()) {
        if (name == "__metadata__") continue;
        const Entry entry = parse_entry(path, name, value, available);
        ranges.push_back({entry.begin, entry.end, name});
        tensors[name] = {entry.info, file.data() + start + entry.begin, &file};
    }
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    std::uint64_t position = 0;
    for (const Range& range : ranges) {
        if (range.begin < position) fail_damaged(path, "tensor '" + printable(range.name) + "' overlaps another");
        if (range.begin > position) fail_damaged(path, "a hole before tensor '" + printable(range.name) + "'");
        position = range.end;
    }
    if (position != available)
        fail_damaged(path, std::to_string(available - position) + " bytes beyond the last tensor");
    return tensors;
}

bool exists(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0;
}

bool is_folder(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

}  // namespace

struct SafetensorsFolder::State {
    std::string path;
    std::vector<std::unique_ptr<Mapping>> files;
    std::map<std::string, Tensor> tensors;

    std::map<std::string, Tensor> open(const std::string& file) {
        files.push_back(std::make_unique<Mapping>(file));
        return parse_header(*files.back());
    }

    void open_shards(const std::string& index) {
        const Mapping file(index);
        if (file.size() > largest_header) fail_damaged(index, "it is too large");
        const Json json = parse_object(index, file.text(0, file.size()));
        const auto map = json.find("weight_map");
        if (map == json.end() || !map->is_object()) fail_damaged(index, "it has no weight_map");
        std::map<std::string, std::map<std::string, Tensor>> shards;
        for (const auto& [name, value] : map->items()) {
            const std::string shard = value.is_string() ? value.get<std::string>() : std::string();
            const bool plain = !shard.empty() && shard != "." && shard != ".." && shard.find('/') == shard.npos &&
                               shard.find('\0') == shard.npos;
            if (!plain)
                fail_damaged(index, "tensor '" + printable(name) + "' is in '" + printable(shard) +
                                        "', which is no plain file name");
            const std::string shard_path = path + "/" + shard;
            auto opened = shards.find(shard);
            if (opened == shards.end()) {
                if (!exists(shard_path))
                    throw Error(path + "/" + printable(shard) + ": no such file, but " + index +
                                " lists it: download the missing shard");
                opened = shards.emplace(shard, open(shard_path)).first;
            }
            const auto tensor = opened->second.find(name);
            if (tensor == opened->second.end())
                throw Error(path + "/" + printable(shard) + ": has no tensor '" + printable(name) + "', but " + index +
                            " lists it: download both again");
            tensors[name] = tensor->second;
        }
    }

    const Tensor& tensor(const std::string& name) const {
        const auto found = tensors.find(name);
        if (found == tensors.end())
            throw Error(path + ": has no tensor '" + printable(name) + "': check that the model is complete and of a " +
                        "supported kind");
        return found->second;
    }
};

SafetensorsFolder::SafetensorsFolder(const std::string& path) : state_(std::make_unique<State>()) {
    state_->path = path;
    if (!is_folder(path)) {
        state_->tensors = state_->open(path);
        return;
    }
    const std::string single = path + "/model.safetensors";
    const std::string index = single + ".index.json";
    if (exists(single)) {
        state_->tensors = state_->open(single);
    } else if (exists(index)) {
        state_->open_shards(index);
    } else {
        throw Error(path +
                    ": holds neither model.safetensors nor model.safetensors.index.json: download the model, or " +
                    "check the path");
    }
}

SafetensorsFolder::~SafetensorsFolder() = default;

std::vector<std::string> SafetensorsFolder::names() const {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : state_->tensors) names.push_back(name);
    return names;
}

bool SafetensorsFolder::has(const std::string& name) const { return state_->tensors.contains(name); }
const TensorInfo& SafetensorsFolder::info(const std::string& name) const { return state_->tensor(name).info; }
const std::byte* SafetensorsFolder::data(const std::string& name) const { return state_->tensor(name).data; }
void SafetensorsFolder::check_unchanged() const {
    for (const auto& file : state_->files) file->check_unchanged();
}
const std::string& SafetensorsFolder::file_of(const std::string& name) const {
    return state_->tensor(name).file->path();
}

}  // namespace pvtune
