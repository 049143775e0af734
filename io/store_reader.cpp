#include "io/error.h"
#include "io/file_state.h"
#include "io/store_catalog.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <stdexcept>

namespace pvtune {
namespace {

constexpr std::size_t chunk_cache_bytes = std::size_t{4} << 20;  // a few chunks, for rows read in order
constexpr std::int64_t verify_bytes = std::int64_t{16} << 20;    // read at a time

/// Opens the file and checks what HDF5 itself is too trusting to check; leaves the descriptor in raw.
void open_file(const std::string& path, hdf5::File& raw) {
    struct stat status {};
    // Not blocking: a pipe would have us wait for its writer.
    raw.descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (raw.descriptor < 0 && (errno == ENOENT || errno == ENOTDIR))
        throw Error(path + ": no such file: check the path");
    if (raw.descriptor < 0 || ::fstat(raw.descriptor, &status) != 0)
        throw Error(path + ": cannot be read (" + std::strerror(errno) + "): check the path and its permissions");
    if (S_ISDIR(status.st_mode)) throw Error(path + ": is a folder: name a store, a file that pvtune wrote");
    if (!S_ISREG(status.st_mode)) throw Error(path + ": is no regular file: name a store, a file that pvtune wrote");
    raw.size = static_cast<std::uint64_t>(status.st_size);
    if (raw.size == 0) throw Error(path + ": is empty: restore a copy or make it again");

    // The superblock of version 2 or 3: signature 8, version, sizes of offsets and lengths, flags, then the addresses
    // of base, extension, end and root group of 8 bytes each, then a checksum (which HDF5 compares).
    constexpr std::string_view signature = "\x89HDF\r\n\x1a\n";
    std::array<unsigned char, 48> block{};
    const auto got = ::pread(raw.descriptor, block.data(), block.size(), 0);
    const auto compared = std::min<std::size_t>(signature.size(), got < 0 ? 0 : static_cast<std::size_t>(got));
    if (compared == 0) throw Error(path + ": cannot be read (" + std::strerror(errno) + "): check the disk");
    if (std::memcmp(block.data(), signature.data(), compared) != 0) catalog::fail_foreign(path, "no HDF5 signature");
    if (got < static_cast<ssize_t>(block.size()))
        throw Error(path + ": is truncated (" + std::to_string(got) + " bytes): restore a copy or make it again");
    if (block[8] < 2) catalog::fail_foreign(path, "an HDF5 file of the old format without checksums");
    const auto address = [&](std::size_t offset) {
        std::uint64_t value = 0;
        std::memcpy(&value, block.data() + offset, sizeof value);
        return value;
    };
    if (block[8] > 3) catalog::fail_foreign(path, "an HDF5 file of an unknown format");
    if (block[9] != 8 || block[10] != 8 || address(12) != 0 || address(20) != HADDR_UNDEF)
        catalog::fail_foreign(path, "an HDF5 file with a layout that pvtune does not write");
    if (block[11] != 0) catalog::fail_damaged(path, "its writer did not close it");
    if (address(28) > raw.size)
        throw Error(path + ": is truncated (" + std::to_string(raw.size) + " of " + std::to_string(address(28)) +
                    " bytes): restore a copy or make it again");
    std::array<char, 5> header{};
    const auto root = address(36);
    if (root >= raw.size || ::pread(raw.descriptor, header.data(), header.size(), static_cast<off_t>(root)) < 5 ||
        std::memcmp(header.data(), "OHDR\2", header.size()) != 0)
        catalog::fail_damaged(path, "no root group of version 2");
}

}  // namespace

struct StoreReader::State {
    std::string path;
    hdf5::File raw;  ///< closed last, after HDF5 is done with it
    hdf5::Id file;
    catalog::Catalog objects;
    std::string open_name;  ///< the dataset last read stays open: its chunk cache serves the next rows
    hdf5::Id open_dataset;
    std::int64_t open_run = 0, open_line = 0;  ///< see find_runs()
    bool verified = false;
    FileState begun;

    /// Sums of chunks do not tell a store from another of the same shapes.
    void check_unchanged() const { begun.check_unchanged(raw.descriptor, path); }

    const catalog::Object& object(const std::string& name) const {
        const auto found = objects.find(catalog::absolute(name));
        if (found == objects.end())
            throw Error(path + ": holds no '" + printable(name) +
                        "': check that it was made for this model and command, or make it again");
        return found->second;
    }

    const TensorInfo& tensor(const std::string& name) const {
        const auto& found = object(name);
        if (found.is_group)
            throw Error(path + ": '" + printable(name) +
                        "' is a group, expected a dataset: check that it was made for this command");
        return found.info;
    }

    template <class T>
    const T& attribute(const std::string& name, const std::string& key, const char* kind) const {
        const auto& attributes = object(name).attributes;
        const auto found = attributes.find(key);
        const std::string text = path + ": attribute '" + key + "' of '" + printable(name) + "' ";
        if (found == attributes.end())
            throw Error(text + "is missing: check that the file was made for this command, or make it again");
        const T* value = std::get_if<T>(&found->second);
        if (value == nullptr) throw Error(text + "is not " + kind + ": make the file again");
        return *value;
    }

    /// The first attributes to look at: what they say decides whether the rest can be understood.
    void check_root(const std::string& kind) {
        const hdf5::Id root(H5Gopen2(file.get(), "/", H5P_DEFAULT), H5Gclose);
        if (!root) catalog::fail_reading(path, raw, "root group");
        if (H5Aexists(root.get(), "format_version") == 0) catalog::fail_foreign(path, "no format_version");
        auto& attributes = objects["/"].attributes;
        attributes = catalog::read_attributes(path, raw, root.get(), "/");
        const auto version = attribute<std::int64_t>("/", "format_version", "a whole number");
        if (version > store_format_version)
            throw Error(path + ": written by a newer pvtune (format " + std::to_string(version) +
                        "; this one reads up to " + std::to_string(store_format_version) + "): update pvtune");
        if (version < 1) catalog::fail_damaged(path, "format " + std::to_string(version));
        const auto& found = attribute<std::string>("/", "kind", "a text");
        if (!kind.empty() && found != kind)
            throw Error(path + ": is a " + printable(found) + " file, expected " + kind + ": name the right file");
    }

    hid_t dataset(const std::string& name) {
        const std::string absolute = catalog::absolute(name);
        if (open_name == absolute && open_dataset) return open_dataset.get();
        open_dataset.reset();
        const hdf5::Id access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
        H5Pset_chunk_cache(access.get(), H5D_CHUNK_CACHE_NSLOTS_DEFAULT, chunk_cache_bytes, 1.0);
        hdf5::Id opened(H5Dopen2(file.get(), absolute.c_str(), access.get()), H5Dclose);
        const std::string what = "dataset '" + printable(name) + "'";
        if (!opened) catalog::fail_reading(path, raw, what);
        // HDF5 would fill chunks that were never written with zeros.
        if (H5Dget_storage_size(opened.get()) < static_cast<hsize_t>(tensor(name).bytes()))
            catalog::fail_damaged(path, what + " is incomplete");
        open_dataset = std::move(opened);
        open_name = absolute;
        find_runs(tensor(name));
        return open_dataset.get();
    }

    /// How the open dataset's elements, in order, lie in chunks: every line of open_line of them is cut into runs of
    /// open_run, each in one chunk.
    void find_runs(const TensorInfo& info) {
        const std::size_t dimensions = info.shape.size();
        std::vector<hsize_t> chunk(dimensions);
        const hdf5::Id creation(H5Dget_create_plist(open_dataset.get()), H5Pclose);
        open_run = open_line = 1;
        if (H5Pget_layout(creation.get()) != H5D_CHUNKED) return;
        if (H5Pget_chunk(creation.get(), static_cast<int>(dimensions), chunk.data()) != static_cast<int>(dimensions))
            catalog::fail_reading(path, raw, "dataset '" + printable(open_name) + "'");
        for (std::size_t i = dimensions; i-- > 0;) {
            open_run = open_line * static_cast<std::int64_t>(chunk[i]);
            open_line *= info.shape[i];
            if (open_run < open_line) return;
        }
    }

    /// A chunk that was lost with its checksum, as in a copy with holes, reads as zeros: the sum of zeros is zero. So
    /// where all that was read of a chunk is zeros, the content hash decides, once. first: of data's elements in the
    /// dataset.
    void check_zeros(const TensorInfo& info, std::int64_t first, std::int64_t count, const void* data) {
        if (verified || info.shape.empty()) return;
        const auto* bytes = static_cast<const char*>(data);
        const std::int64_t size = size_of(info.dtype);
        for (std::int64_t at = first; at < first + count;) {
            const std::int64_t line = at / open_line * open_line;
            const std::int64_t run_end = line + ((at - line) / open_run + 1) * open_run;
            const std::int64_t end = std::min({run_end, line + open_line, first + count});
            const char* part = bytes + (at - first) * size;
            const auto length = static_cast<std::size_t>((end - at) * size);
            if (*part == 0 && std::memcmp(part, part + 1, length - 1) == 0) return verify();
            at = end;
        }
    }

    void read(const std::string& name, void* data) {
        const TensorInfo& info = tensor(name);
        if (info.bytes() == 0) return;
        const hid_t opened = dataset(name);
        if (H5Dread(opened, hdf5::file_type(info.dtype).get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
            catalog::fail_reading(path, raw, "dataset '" + printable(name) + "'");
        check_zeros(info, 0, info.elements(), data);
    }

    void read_rows(const std::string& name, std::int64_t first, std::int64_t count, void* data) {
        load_rows(name, first, count, data);
        const TensorInfo& info = tensor(name);
        if (info.bytes() == 0 || count == 0) return;
        const std::int64_t row = info.elements() / info.shape[0];
        check_zeros(info, first * row, count * row, data);
    }

    void load_rows(const std::string& name, std::int64_t first, std::int64_t count, void* data) {
        const TensorInfo& info = tensor(name);
        if (info.shape.empty() || first < 0 || count < 0 || count > info.shape[0] - first)
            throw Error(path + ": '" + printable(name) + "' has the shape " + catalog::to_text(info.shape) +
                        ", but rows " + std::to_string(first) + " to " + std::to_string(first + count) +
                        " are needed: make the file again");
        if (info.bytes() == 0 || count == 0) return;
        const hid_t opened = dataset(name);
        std::vector<hsize_t> start(info.shape.size());
        std::vector<hsize_t> extents(info.shape.begin(), info.shape.end());
        start[0] = static_cast<hsize_t>(first);
        extents[0] = static_cast<hsize_t>(count);
        const hdf5::Id in_file(H5Dget_space(opened), H5Sclose);
        const hdf5::Id in_memory(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), H5Sclose);
        if (H5Sselect_hyperslab(in_file.get(), H5S_SELECT_SET, start.data(), nullptr, extents.data(), nullptr) < 0 ||
            H5Dread(opened, hdf5::file_type(info.dtype).get(), in_memory.get(), in_file.get(), H5P_DEFAULT, data) < 0)
            catalog::fail_reading(path, raw, "dataset '" + printable(name) + "'");
    }

    XXH128_hash_t data_hash(const std::string& name) {
        const TensorInfo& info = tensor(name);
        if (info.shape.empty() || info.bytes() == 0) {
            std::array<std::byte, 8> scalar{};
            read(name, scalar.data());
            return XXH3_128bits(scalar.data(), static_cast<std::size_t>(info.bytes()));
        }
        const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> hash(XXH3_createState(), XXH3_freeState);
        if (hash == nullptr) throw std::bad_alloc();
        XXH3_128bits_reset(hash.get());
        const std::int64_t rows = info.shape[0];
        const std::int64_t row_bytes = info.bytes() / rows;
        const std::int64_t step = std::clamp<std::int64_t>(verify_bytes / row_bytes, 1, rows);
        std::vector<std::byte> buffer(static_cast<std::size_t>(step * row_bytes));
        for (std::int64_t first = 0; first < rows; first += step) {
            const std::int64_t count = std::min(step, rows - first);
            load_rows(name, first, count, buffer.data());
            XXH3_128bits_update(hash.get(), buffer.data(), static_cast<std::size_t>(count * row_bytes));
        }
        return XXH3_128bits_digest(hash.get());
    }

    /// Throws unless what the datasets hold gives the content hash.
    void verify() {
        catalog::Catalog content = objects;
        for (auto& [name, object] : content)
            if (!object.is_group) object.data_hash = data_hash(name);
        const auto& wanted = attribute<std::string>("/", "content_hash", "a text");
        if (catalog::content_hash(content) != wanted)
            catalog::fail_damaged(path, "its content does not give its content hash " + wanted);
        verified = true;
    }
};

StoreReader::StoreReader(std::string path, const std::string& kind) : state_(std::make_unique<State>()) {
    const hdf5::Session session;
    State& state = *state_;
    state.path = std::move(path);
    open_file(state.path, state.raw);
    state.begun = FileState(state.raw.descriptor);
    const auto access = hdf5::access_through(state.raw);
    state.file = hdf5::Id(H5Fopen(state.path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
    if (!state.file) catalog::fail_reading(state.path, state.raw, "file header");
    state.check_root(kind);
    state.objects = catalog::read(state.path, state.raw, state.file.get());
}

StoreReader::~StoreReader() {
    const hdf5::Session session;
    state_.reset();
}

StoreReader::StoreReader(StoreReader&&) noexcept = default;

const std::string& StoreReader::path() const { return state_->path; }
std::string StoreReader::command() const { return text("/", "command"); }
std::string StoreReader::content_hash() const { return text("/", "content_hash"); }

bool StoreReader::has(const std::string& object) const { return state_->objects.contains(catalog::absolute(object)); }

bool StoreReader::is_group(const std::string& object) const { return has(object) && state_->object(object).is_group; }

std::vector<std::string> StoreReader::children(const std::string& group) const {
    if (!state_->object(group).is_group)
        throw Error(path() + ": '" + printable(group) +
                    "' is a dataset, expected a group: check that it was made for this command");
    std::string prefix = catalog::absolute(group);
    if (prefix != "/") prefix += '/';
    std::vector<std::string> names;
    for (auto it = state_->objects.upper_bound(prefix); it != state_->objects.end(); ++it) {
        if (!it->first.starts_with(prefix)) break;
        if (it->first.find('/', prefix.size()) == std::string::npos) names.push_back(it->first.substr(prefix.size()));
    }
    return names;
}

bool StoreReader::has_attribute(const std::string& object, const std::string& name) const {
    return has(object) && state_->object(object).attributes.contains(name);
}

std::string StoreReader::text(const std::string& object, const std::string& name) const {
    return state_->attribute<std::string>(object, name, "a text");
}

std::int64_t StoreReader::integer(const std::string& object, const std::string& name) const {
    return state_->attribute<std::int64_t>(object, name, "a whole number");
}

double StoreReader::real(const std::string& object, const std::string& name) const {
    return state_->attribute<double>(object, name, "a real number");
}

TensorInfo StoreReader::info(const std::string& dataset) const { return state_->tensor(dataset); }

void StoreReader::expect(const std::string& dataset, DType dtype, const std::vector<std::int64_t>& shape) const {
    const TensorInfo& found = state_->tensor(dataset);
    if (found.dtype == dtype && found.shape == shape) return;
    throw Error(path() + ": '" + printable(dataset) + "' is " + std::string(name_of(found.dtype)) + " " +
                catalog::to_text(found.shape) + ", expected " + std::string(name_of(dtype)) + " " +
                catalog::to_text(shape) + ": check that it was made for this model, or make it again");
}

void StoreReader::read(const std::string& dataset, void* data, std::int64_t bytes) const {
    const hdf5::Session session;
    const TensorInfo& found = state_->tensor(dataset);
    if (found.bytes() != bytes)
        throw Error(path() + ": '" + printable(dataset) + "' is " + std::string(name_of(found.dtype)) + " " +
                    catalog::to_text(found.shape) + " (" + std::to_string(found.bytes()) + " bytes), expected " +
                    std::to_string(bytes) + " bytes: check that it was made for this model, or make it again");
    state_->read(dataset, data);
    state_->check_unchanged();
}

void StoreReader::read_rows(const std::string& dataset, std::int64_t first, std::int64_t count, void* data) const {
    const hdf5::Session session;
    state_->read_rows(dataset, first, count, data);
    state_->check_unchanged();
}

void StoreReader::verify() const {
    const hdf5::Session session;
    state_->verify();
    state_->check_unchanged();
}

std::string store_kind(const std::string& path) { return StoreReader(path, "").text("/", "kind"); }

}  // namespace pvtune
