// The part of the catalog that reads: every object of an HDF5 file, with the checks that keep a damaged or hostile file
// from making HDF5 or us allocate without bound, follow links out of the file or load code.
#include "io/error.h"
#include "io/store_catalog.h"

#include <unistd.h>
#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

namespace pvtune::catalog {
namespace {

constexpr int deepest_group = 16;
constexpr std::size_t most_objects = 1'000'000;
constexpr std::size_t most_attributes = 1'000;

struct Link {
    std::string name;
    H5L_type_t type;
    haddr_t address;
};

struct Walk {
    const std::string& path;
    const hdf5::File& raw;
    std::set<haddr_t> seen;  ///< a second link to an object could make a cycle
    Catalog catalog;
};

herr_t gather_link(hid_t, const char* name, const H5L_info_t* info, void* data) {
    auto& links = *static_cast<std::vector<Link>*>(data);
    if (links.size() >= most_objects) return -1;
    links.push_back({name, info->type, info->type == H5L_TYPE_HARD ? info->u.address : HADDR_UNDEF});
    return 0;
}

herr_t gather_name(hid_t, const char* name, const H5A_info_t*, void* data) {
    auto& names = *static_cast<std::vector<std::string>*>(data);
    if (names.size() >= most_attributes) return -1;
    names.emplace_back(name);
    return 0;
}

/// Object headers of the old format have no checksum: they are refused before HDF5 decodes them.
void check_header(const Walk& walk, haddr_t address, const std::string& name) {
    char header[5] = {};
    const bool inside = address < walk.raw.size && walk.raw.size - address >= sizeof header;
    if (!inside || ::pread(walk.raw.descriptor, header, sizeof header, static_cast<off_t>(address)) != sizeof header)
        fail_damaged(walk.path, "'" + printable(name) + "' lies outside the file");
    if (std::memcmp(header, "OHDR\2", sizeof header) != 0)
        fail_damaged(walk.path, "'" + printable(name) + "' has no object header of version 2");
}

std::string read_text(const std::string& path, const hdf5::File& raw, hid_t attribute, hid_t type,
                      const std::string& what) {
    std::string value;
    if (H5Tis_variable_str(type) > 0) {
        char* text = nullptr;
        if (H5Aread(attribute, type, &text) < 0) fail_reading(path, raw, what);
        if (text != nullptr) value = text;
        H5free_memory(text);
        return value;
    }
    const std::size_t size = H5Tget_size(type);
    if (size == 0 || size > raw.size) fail_damaged(path, what + " is larger than the file");
    value.resize(size);
    if (H5Aread(attribute, type, value.data()) < 0) fail_reading(path, raw, what);
    const bool spaces = H5Tget_strpad(type) == H5T_STR_SPACEPAD;
    const auto end = spaces ? value.find_last_not_of(' ') + 1 : value.find('\0');
    value.resize(std::min(end, value.size()));
    return value;
}

/// The dtype and shape of a dataset, and whether its layout is one that the writer makes.
TensorInfo inspect(const Walk& walk, hid_t dataset, const std::string& name) {
    const std::string what = "dataset '" + printable(name) + "'";
    const hdf5::Id type(H5Dget_type(dataset), H5Tclose);
    const hdf5::Id space(H5Dget_space(dataset), H5Sclose);
    const hdf5::Id creation(H5Dget_create_plist(dataset), H5Pclose);
    if (!type || !space || !creation) fail_reading(walk.path, walk.raw, what);

    TensorInfo info;
    const auto dtype = hdf5::recognise(type.get());
    if (!dtype) fail_foreign(walk.path, what + " has a type of its own");
    info.dtype = *dtype;

    const H5S_class_t extent_class = H5Sget_simple_extent_type(space.get());
    const int rank = extent_class == H5S_NULL ? -1 : H5Sget_simple_extent_ndims(space.get());
    if (rank < 0 || rank > largest_rank) fail_foreign(walk.path, what + " has an impossible rank");
    std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
    if (rank > 0 && H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr) < 0)
        fail_reading(walk.path, walk.raw, what);
    const auto element = static_cast<std::uint64_t>(size_of(info.dtype));
    // Bounds every product: no element may be missing from the file, as only checksums filter the data.
    std::uint64_t count = 1;
    for (const hsize_t extent : extents) {
        if (extent > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max()) * 1024U ||
            (count != 0 && extent > walk.raw.size / element / count))
            fail_damaged(walk.path, what + " claims more data than the file holds");
        count *= extent;
        info.shape.push_back(static_cast<std::int64_t>(extent));
    }

    const H5D_layout_t layout = H5Pget_layout(creation.get());
    const int filters = H5Pget_nfilters(creation.get());
    if (layout == H5D_COMPACT && filters == 0) return info;  // inside the checksummed header
    if (layout != H5D_CHUNKED || H5Pget_external_count(creation.get()) != 0)
        fail_foreign(walk.path, what + " is not stored in chunks");
    unsigned flags = 0;
    unsigned settings = 0;
    std::size_t setting_count = 0;
    if (filters != 1 || H5Pget_filter2(creation.get(), 0, &flags, &setting_count, &settings, 0, nullptr, nullptr) !=
                            H5Z_FILTER_FLETCHER32)
        fail_foreign(walk.path, what + " has other filters than Fletcher-32");
    std::vector<hsize_t> chunk(static_cast<std::size_t>(rank));
    if (rank == 0 || H5Pget_chunk(creation.get(), rank, chunk.data()) != rank) fail_reading(walk.path, walk.raw, what);
    std::uint64_t chunk_bytes = element;
    for (const hsize_t extent : chunk) {
        if (extent == 0 || extent > walk.raw.size / chunk_bytes)
            fail_damaged(walk.path, what + " has chunks larger than the file");
        chunk_bytes *= extent;
    }
    return info;
}

void visit(Walk& walk, hid_t object, const std::string& name, int depth) {
    Object entry;
    entry.attributes = read_attributes(walk.path, walk.raw, object, name);
    const H5I_type_t kind = H5Iget_type(object);
    if (kind == H5I_DATASET) {
        entry.is_group = false;
        entry.info = inspect(walk, object, name);
    } else if (kind != H5I_GROUP) {
        fail_foreign(walk.path, "'" + printable(name) + "' is neither a group nor a dataset");
    }
    walk.catalog.emplace(name, std::move(entry));
    if (walk.catalog.size() > most_objects) fail_foreign(walk.path, "too many objects");
    if (kind == H5I_DATASET) return;
    if (depth >= deepest_group) fail_foreign(walk.path, "groups nested too deeply");

    std::vector<Link> links;
    if (H5Literate(object, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, gather_link, &links) < 0)
        fail_reading(walk.path, walk.raw, "group '" + printable(name) + "'");
    for (const Link& link : links) {
        const std::string child = (name == "/" ? "/" : name + "/") + link.name;
        if (link.type != H5L_TYPE_HARD)
            fail_foreign(walk.path, "'" + printable(child) + "' is a soft or external link");
        if (absolute(child) != child) fail_foreign(walk.path, "'" + printable(child) + "' is not a usable name");
        if (!walk.seen.insert(link.address).second)
            fail_foreign(walk.path, "'" + printable(child) + "' is a second link to an object");
        check_header(walk, link.address, child);
        const hdf5::Id opened(H5Oopen(object, link.name.c_str(), H5P_DEFAULT), H5Oclose);
        if (!opened) fail_reading(walk.path, walk.raw, "'" + printable(child) + "'");
        visit(walk, opened.get(), child, depth + 1);
    }
}

}  // namespace

std::map<std::string, Attribute> read_attributes(const std::string& path, const hdf5::File& raw, hid_t object,
                                                 const std::string& name) {
    std::vector<std::string> names;
    if (H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, gather_name, &names) < 0)
        fail_reading(path, raw, "attributes of '" + printable(name) + "'");
    std::map<std::string, Attribute> result;
    for (const auto& attribute_name : names) {
        const std::string what = "attribute '" + printable(attribute_name) + "' of '" + printable(name) + "'";
        const hdf5::Id attribute(H5Aopen(object, attribute_name.c_str(), H5P_DEFAULT), H5Aclose);
        if (!attribute) fail_reading(path, raw, what);
        const hdf5::Id space(H5Aget_space(attribute.get()), H5Sclose);
        const hdf5::Id type(H5Aget_type(attribute.get()), H5Tclose);
        if (!space || !type) fail_reading(path, raw, what);
        if (H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) fail_foreign(path, what + " is not a single value");
        const H5T_class_t kind = H5Tget_class(type.get());
        if (kind == H5T_STRING) {
            result[attribute_name] = read_text(path, raw, attribute.get(), type.get(), what);
        } else if (kind == H5T_INTEGER) {
            std::int64_t value = 0;
            if (H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0) fail_reading(path, raw, what);
            result[attribute_name] = value;
        } else if (kind == H5T_FLOAT) {
            double value = 0;
            if (H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value) < 0) fail_reading(path, raw, what);
            result[attribute_name] = value;
        } else {
            fail_foreign(path, what + " is neither a text nor a number");
        }
    }
    return result;
}

Catalog read(const std::string& path, const hdf5::File& raw, hid_t file) {
    Walk walk{path, raw, {}, {}};
    const hdf5::Id root(H5Gopen2(file, "/", H5P_DEFAULT), H5Gclose);
    if (!root) fail_reading(path, raw, "root group");
    visit(walk, root.get(), "/", 0);
    return std::move(walk.catalog);
}

}  // namespace pvtune::catalog
