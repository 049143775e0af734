#include "io/error.h"
#include "io/output_file.h"
#include "io/store_catalog.h"

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <utility>

namespace pvtune {
namespace {

constexpr std::int64_t chunk_target_bytes = std::int64_t{1} << 20;

/// Chunks of about a mebibyte along the leading dimensions, evened out so that the last one is not mostly padding.
std::vector<hsize_t> chunk_shape(const TensorInfo& info) {
    std::vector<hsize_t> chunk(info.shape.size());
    std::int64_t budget = chunk_target_bytes / size_of(info.dtype);
    for (std::size_t i = info.shape.size(); i-- > 0;) {
        const std::int64_t extent = info.shape[i];
        const std::int64_t most = std::min(extent, std::max<std::int64_t>(budget, 1));
        const std::int64_t pieces = (extent + most - 1) / most;
        chunk[i] = static_cast<hsize_t>((extent + pieces - 1) / pieces);
        budget /= static_cast<std::int64_t>(chunk[i]);
    }
    return chunk;
}

/// Creation properties that keep attributes in the checksummed object header and times out of the file, so that the
/// same content gives the same bytes.
hdf5::Id creation_properties(hid_t kind) {
    constexpr unsigned most_in_header = 1000;
    hdf5::Id properties(H5Pcreate(kind), H5Pclose);
    if (!properties || H5Pset_attr_phase_change(properties.get(), most_in_header, 0) < 0 ||
        H5Pset_obj_track_times(properties.get(), false) < 0)
        return {};
    return properties;
}

}  // namespace

struct StoreWriter::State {
    std::string path;
    std::string partial;
    hdf5::File raw;  ///< closed last, after HDF5 is done with it; its lock keeps other runs away until then
    hdf5::Id file;
    catalog::Catalog objects;
    bool finished = false;  ///< committed or given up

    /// Looks at the driver's error after every call of HDF5, which does not hear of it.
    void check(bool good) {
        if (good && raw.error == 0) return;
        const std::string reason = hdf5::take_message();
        const int error = raw.error;
        give_up();
        if (error != 0) fail_writing(path, error);
        throw Error(path + ": cannot be written (" + reason + "): check the path and the disk");
    }

    /// Removes the partial file. HDF5 is done with it once the ids that callers still hold are closed.
    void give_up() {
        if (finished) return;
        finished = true;
        if (raw.error == 0) raw.error = ECANCELED;  // the driver drops what HDF5 still has to write
        file.reset();
        hdf5::take_message();
        if (is_at(raw.descriptor, partial)) ::unlink(partial.c_str());
    }

    std::string usable(const std::string& object) const {
        if (finished) throw std::logic_error(path + ": written after its end");
        const std::string name = catalog::absolute(object);
        if (name.empty()) throw std::logic_error(path + ": '" + object + "' is no usable name in a store");
        return name;
    }

    catalog::Object& existing(const std::string& object) {
        const auto found = objects.find(usable(object));
        if (found == objects.end()) throw std::logic_error(path + ": has no object '" + object + "'");
        return found->second;
    }

    /// Puts one attribute in place of any of that name.
    void put(const std::string& object, const std::string& name, hid_t type, const void* value,
             catalog::Attribute kept) {
        existing(object).attributes[name] = std::move(kept);
        const hdf5::Id opened(H5Oopen(file.get(), catalog::absolute(object).c_str(), H5P_DEFAULT), H5Oclose);
        check(static_cast<bool>(opened));
        if (H5Aexists(opened.get(), name.c_str()) > 0) check(H5Adelete(opened.get(), name.c_str()) >= 0);
        const hdf5::Id space(H5Screate(H5S_SCALAR), H5Sclose);
        hdf5::Id attribute(H5Acreate2(opened.get(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                           H5Aclose);
        check(static_cast<bool>(attribute));
        check(H5Awrite(attribute.get(), type, value) >= 0 && attribute.reset());
    }

    void make_groups(const std::string& name) {
        for (std::size_t end = name.find('/', 1);; end = name.find('/', end + 1)) {
            const std::string group = name.substr(0, end);
            const auto [entry, added] = objects.try_emplace(group);
            if (!entry->second.is_group) throw std::logic_error(path + ": '" + group + "' is a dataset, not a group");
            if (added) {
                const auto properties = creation_properties(H5P_GROUP_CREATE);
                hdf5::Id made(H5Gcreate2(file.get(), group.c_str(), H5P_DEFAULT, properties.get(), H5P_DEFAULT),
                              H5Gclose);
                check(made && made.reset());
            }
            if (end == name.npos) return;
        }
    }
};

StoreWriter::StoreWriter(std::string path, const std::string& kind, const std::string& command)
    : state_(std::make_unique<State>()) {
    const hdf5::Session session;
    State& state = *state_;
    state.path = std::move(path);
    state.partial = state.path + ".partial";
    state.raw.descriptor = open_partial(state.path, state.partial);
    try {
        const auto access = hdf5::access_through(state.raw);
        const auto creation = creation_properties(H5P_FILE_CREATE);
        state.file = hdf5::Id(H5Fcreate(state.partial.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
        state.check(state.file && access && creation);
        state.objects["/"];
        set_integer("/", "format_version", store_format_version);
        set_text("/", "kind", kind);
        set_text("/", "command", command);
    } catch (...) {
        state.give_up();
        throw;
    }
}

StoreWriter::~StoreWriter() {
    const hdf5::Session session;
    state_->give_up();
    state_.reset();
}

void StoreWriter::set_text(const std::string& object, const std::string& name, const std::string& value) {
    const hdf5::Session session;
    if (value.size() > catalog::largest_text)
        throw Error(state_->path + ": attribute '" + name + "' has " + std::to_string(value.size()) +
                    " bytes of text, more than the " + std::to_string(catalog::largest_text) +
                    " that a store takes: shorten it");
    if (value.find('\0') != value.npos)
        throw Error(state_->path + ": attribute '" + name + "' has a zero byte in its text: remove it");
    const hdf5::Id type(H5Tcopy(H5T_C_S1), H5Tclose);
    // Fixed length: variable-length texts would lie in HDF5's global heap, which has no checksum.
    state_->check(H5Tset_size(type.get(), std::max<std::size_t>(value.size(), 1)) >= 0 &&
                  H5Tset_strpad(type.get(), H5T_STR_NULLPAD) >= 0 && H5Tset_cset(type.get(), H5T_CSET_UTF8) >= 0);
    state_->put(object, name, type.get(), value.c_str(), value);
}

void StoreWriter::set_integer(const std::string& object, const std::string& name, std::int64_t value) {
    const hdf5::Session session;
    state_->put(object, name, H5T_STD_I64LE, &value, value);
}

void StoreWriter::set_real(const std::string& object, const std::string& name, double value) {
    const hdf5::Session session;
    state_->put(object, name, H5T_IEEE_F64LE, &value, value);
}

void StoreWriter::create_group(const std::string& path) {
    const hdf5::Session session;
    const std::string name = state_->usable(path);
    if (name != "/") state_->make_groups(name);
}

void StoreWriter::write(const std::string& dataset, DType dtype, const std::vector<std::int64_t>& shape,
                        const void* data) {
    const hdf5::Session session;
    State& state = *state_;
    const std::string name = state.usable(dataset);
    if (state.objects.contains(name)) throw std::logic_error(state.path + ": '" + name + "' is written twice");
    const bool negative = std::any_of(shape.begin(), shape.end(), [](auto extent) { return extent < 0; });
    if (negative || shape.size() > static_cast<std::size_t>(catalog::largest_rank))
        throw std::logic_error(state.path + ": '" + name + "' has no usable shape " + catalog::to_text(shape));
    const auto slash = name.rfind('/');
    if (slash > 0) state.make_groups(name.substr(0, slash));

    catalog::Object entry;
    entry.is_group = false;
    entry.info = {dtype, shape};
    const auto bytes = static_cast<std::size_t>(entry.info.bytes());
    entry.data_hash = XXH3_128bits(data, bytes);

    const auto creation = creation_properties(H5P_DATASET_CREATE);
    if (shape.empty() || bytes == 0) {  // nothing to cut into chunks; the header's checksum covers it
        state.check(H5Pset_layout(creation.get(), H5D_COMPACT) >= 0);
    } else {
        const auto chunk = chunk_shape(entry.info);
        state.check(H5Pset_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data()) >= 0 &&
                    H5Pset_fletcher32(creation.get()) >= 0);
    }
    const std::vector<hsize_t> extents(shape.begin(), shape.end());
    const hdf5::Id space(shape.empty() ? H5Screate(H5S_SCALAR)
                                       : H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr),
                         H5Sclose);
    const auto type = hdf5::file_type(dtype);
    hdf5::Id made(
        H5Dcreate2(state.file.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
        H5Dclose);
    // Entered before the data is: a check that fails gives the whole file up.
    state.objects.emplace(name, std::move(entry));
    state.check(static_cast<bool>(made));
    const bool good = bytes == 0 || H5Dwrite(made.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    // Closed first: an id left open would keep the file open when it is given up.
    state.check(made.reset() && good);
}

std::string StoreWriter::commit() {
    const hdf5::Session session;
    State& state = *state_;
    const std::string hash = catalog::content_hash(state.objects);
    set_text("/", "content_hash", hash);
    state.check(H5Fflush(state.file.get(), H5F_SCOPE_GLOBAL) >= 0);
    state.check(state.file.reset());
    try {
        commit_partial(state.raw.descriptor, state.path, state.partial);
    } catch (const Error&) {
        state.give_up();
        throw;
    }
    state.finished = true;
    ::close(std::exchange(state.raw.descriptor, -1));  // with its lock, which would keep HDF5's readers out
    return hash;
}

}  // namespace pvtune
