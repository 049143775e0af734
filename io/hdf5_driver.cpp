// The HDF5 file driver behind hdf5::File: positioned reads and writes on a descriptor that we opened and keep.
#include "io/hdf5_handles.h"

#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

namespace pvtune::hdf5 {
namespace {

/// What HDF5 holds for an open file; the public part must come first.
struct Open {
    H5FD_t base{};
    File* file = nullptr;
    haddr_t end_of_allocation = 0;
};

struct Settings {
    File* file;
};

constexpr haddr_t last_address = (static_cast<haddr_t>(1) << 62) - 1;
constexpr std::size_t largest_transfer = std::size_t{1} << 30;  // one Linux read or write moves less than 2 GiB

File& file_of(H5FD_t* base) { return *reinterpret_cast<Open*>(base)->file; }

void note(File& file) {
    if (file.error == 0) file.error = errno;
}

H5FD_t* open_file(const char*, unsigned flags, hid_t access, haddr_t) {
    const auto* settings = static_cast<const Settings*>(H5Pget_driver_info(access));
    if (settings == nullptr) return nullptr;
    if ((flags & H5F_ACC_TRUNC) != 0) {
        if (::ftruncate(settings->file->descriptor, 0) != 0) note(*settings->file);
        settings->file->size = 0;
    }
    auto* open = new Open;
    open->file = settings->file;
    return &open->base;
}

herr_t close_file(H5FD_t* base) {
    delete reinterpret_cast<Open*>(base);
    return 0;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
    if (flags != nullptr) {
        *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA |
                 H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    }
    return 0;
}

haddr_t end_of_allocation(const H5FD_t* base, H5FD_mem_t) {
    return reinterpret_cast<const Open*>(base)->end_of_allocation;
}

herr_t set_end_of_allocation(H5FD_t* base, H5FD_mem_t, haddr_t address) {
    reinterpret_cast<Open*>(base)->end_of_allocation = address;
    return 0;
}

haddr_t end_of_file(const H5FD_t* base, H5FD_mem_t) { return reinterpret_cast<const Open*>(base)->file->size; }

herr_t read_bytes(H5FD_t* base, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, void* buffer) {
    File& file = file_of(base);
    auto* to = static_cast<char*>(buffer);
    while (size > 0) {
        const auto got = ::pread(file.descriptor, to, std::min(size, largest_transfer), static_cast<off_t>(address));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            note(file);
            return -1;
        }
        if (got == 0) {  // past the end HDF5 expects zeros; the checksums see to what should not be there
            std::memset(to, 0, size);
            return 0;
        }
        to += got;
        address += static_cast<haddr_t>(got);
        size -= static_cast<std::size_t>(got);
    }
    return 0;
}

herr_t write_bytes(H5FD_t* base, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, const void* buffer) {
    File& file = file_of(base);
    const auto* from = static_cast<const char*>(buffer);
    while (size > 0 && file.error == 0) {
        const auto put = ::pwrite(file.descriptor, from, std::min(size, largest_transfer), static_cast<off_t>(address));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) {
            note(file);
            break;
        }
        from += put;
        address += static_cast<haddr_t>(put);
        size -= static_cast<std::size_t>(put);
    }
    file.size = std::max<std::uint64_t>(file.size, address + size);
    return 0;
}

herr_t truncate_file(H5FD_t* base, hid_t, hbool_t) {
    const haddr_t end = reinterpret_cast<Open*>(base)->end_of_allocation;
    File& file = file_of(base);
    if (end == file.size) return 0;
    if (file.error == 0 && ::ftruncate(file.descriptor, static_cast<off_t>(end)) != 0) note(file);
    file.size = end;
    return 0;
}

hid_t register_driver() {
    // Lives as long as the program: older HDF5 versions keep the pointer.
    static H5FD_class_t driver{};
#if H5_VERSION_GE(1, 13, 0)
    driver.version = H5FD_CLASS_VERSION;
    driver.value = static_cast<H5FD_class_value_t>(600);  // the range for drivers of applications
#endif
    driver.name = "pvtune";
    driver.maxaddr = last_address;
    driver.fc_degree = H5F_CLOSE_WEAK;
    driver.fapl_size = sizeof(Settings);
    driver.open = open_file;
    driver.close = close_file;
    driver.query = query;
    driver.get_eoa = end_of_allocation;
    driver.set_eoa = set_end_of_allocation;
    driver.get_eof = end_of_file;
    driver.read = read_bytes;
    driver.write = write_bytes;
    driver.truncate = truncate_file;
    constexpr H5FD_mem_t one_list[] = H5FD_FLMAP_DICHOTOMY;
    static_assert(sizeof(one_list) == sizeof(driver.fl_map));
    std::memcpy(driver.fl_map, one_list, sizeof(one_list));
    return H5FDregister(&driver);
}

}  // namespace

File::~File() {
    if (descriptor >= 0) ::close(descriptor);
}

Id access_through(File& file) {
    static const hid_t driver = register_driver();
    Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    const Settings settings{&file};
    if (driver < 0 || !access || H5Pset_driver(access.get(), driver, &settings) < 0) return {};
    if (H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110) < 0) return {};
    return access;
}

}  // namespace pvtune::hdf5
