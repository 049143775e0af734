#pragma once

#include "io/dtype.h"

// HDF5 1.12 and later: keep the functions as 1.10 has them.
#define H5_USE_110_API
#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

/// What the store reader and writer share over the HDF5 C API; private to io/.
namespace pvtune::hdf5 {

/// An HDF5 identifier with the function that closes it.
class Id {
public:
    using Close = herr_t (*)(hid_t);

    Id() = default;
    Id(hid_t id, Close close) : id_(id), close_(close) {}
    ~Id() { reset(); }
    Id(Id&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
    Id& operator=(Id&& other) noexcept {
        if (this != &other) {
            reset();
            id_ = std::exchange(other.id_, H5I_INVALID_HID);
            close_ = other.close_;
        }
        return *this;
    }

    hid_t get() const { return id_; }
    explicit operator bool() const { return id_ >= 0; }
    /// Closes now; false when HDF5 reports a failure.
    bool reset() {
        const hid_t id = std::exchange(id_, H5I_INVALID_HID);
        return id < 0 || close_(id) >= 0;
    }

private:
    hid_t id_ = H5I_INVALID_HID;
    Close close_ = nullptr;
};

/// Holds the one lock over HDF5 (the library may be built without thread safety) and prepares it: no printing of its
/// own error stacks, no filter plugins, no clean-up at exit (every id is closed by its owner).
class Session {
public:
    Session();

private:
    std::lock_guard<std::recursive_mutex> lock_;
};

/// The innermost message of HDF5's error stack, on one line; empties the stack.
std::string take_message();

/// The file type of a DType (little endian). bf16 is a custom 16-bit float that any HDF5 reader converts.
Id file_type(DType type);
/// The DType of a dataset's type; none when it is not one of ours.
std::optional<DType> recognise(hid_t type);

/// An open file as HDF5 sees it through our driver. HDF5 1.10 cannot give up a file whose writes fail (its caches try
/// again in every close and leave half-freed ids behind), so the driver never tells it: the first failure is kept here,
/// later writes are dropped, and the caller looks at `error` after every call.
struct File {
    int descriptor = -1;
    std::uint64_t size = 0;
    int error = 0;  ///< errno of the first failed read or write

    File() = default;
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;
};

/// File access properties that make HDF5 read and write through `file`, which must outlive every id of that HDF5 file.
Id access_through(File& file);

}  // namespace pvtune::hdf5
