#include "io/activation_file.h"

#include "io/error.h"
#include "io/hdf5_handles.h"

#include <fcntl.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstring>

namespace pvtune {

struct ActivationFile::State {
    std::string path;
    hdf5::File raw;  ///< closed last, after HDF5 is done with it
    hdf5::Id file, dataset, type;
    std::array<hsize_t, 3> shape{};

    void check(bool good, const char* verb) const {
        if (good && raw.error == 0) return;
        const std::string reason = raw.error != 0 ? std::strerror(raw.error) : hdf5::take_message();
        throw Error(path + ": cannot be " + verb + " (" + reason +
                    "): free some space, or raise --activation-memory so that no file is needed");
    }

    /// The part of the file that sequences [first, first + count) take, and the same in memory.
    std::array<hdf5::Id, 2> spaces(std::int64_t first, std::int64_t count) const {
        const std::array<hsize_t, 3> start{static_cast<hsize_t>(first), 0, 0};
        const std::array<hsize_t, 3> extent{static_cast<hsize_t>(count), shape[1], shape[2]};
        hdf5::Id in_file(H5Dget_space(dataset.get()), H5Sclose);
        const bool selected =
            H5Sselect_hyperslab(in_file.get(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr) >= 0;
        check(selected, "used");
        return {std::move(in_file), hdf5::Id(H5Screate_simple(3, extent.data(), nullptr), H5Sclose)};
    }
};

ActivationFile::ActivationFile(std::string path, DType dtype, std::int64_t sequences, std::int64_t length,
                               std::int64_t width)
    : state_(std::make_unique<State>()) {
    const hdf5::Session session;
    State& state = *state_;
    state.path = std::move(path);
    state.shape = {static_cast<hsize_t>(sequences), static_cast<hsize_t>(length), static_cast<hsize_t>(width)};
    state.raw.descriptor = ::open(state.path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    state.raw.error = state.raw.descriptor < 0 ? errno : 0;
    state.check(true, "made");
    const auto access = hdf5::access_through(state.raw);
    state.file = hdf5::Id(H5Fcreate(state.path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose);
    state.check(static_cast<bool>(state.file), "made");
    const hdf5::Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    const std::array<hsize_t, 3> chunk{1, state.shape[1], state.shape[2]};
    const hdf5::Id space(H5Screate_simple(3, state.shape.data(), nullptr), H5Sclose);
    state.type = hdf5::file_type(dtype);
    // No chunk cache: every chunk is read and written whole, once a pass.
    const hdf5::Id uncached(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
    state.check(H5Pset_chunk(creation.get(), 3, chunk.data()) >= 0 && H5Pset_fletcher32(creation.get()) >= 0 &&
                    H5Pset_chunk_cache(uncached.get(), 0, 0, 0) >= 0,
                "made");
    state.dataset = hdf5::Id(H5Dcreate2(state.file.get(), "hidden", state.type.get(), space.get(), H5P_DEFAULT,
                                        creation.get(), uncached.get()),
                             H5Dclose);
    state.check(static_cast<bool>(state.dataset), "made");
}

ActivationFile::~ActivationFile() {
    const hdf5::Session session;
    state_->raw.error = ECANCELED;  // what HDF5 still has to write is dropped: the file goes
    const std::string path = state_->path;
    state_.reset();
    hdf5::take_message();
    ::unlink(path.c_str());
}

void ActivationFile::read(std::int64_t first, std::int64_t count, void* data) {
    const hdf5::Session session;
    const auto [in_file, in_memory] = state_->spaces(first, count);
    state_->check(
        H5Dread(state_->dataset.get(), state_->type.get(), in_memory.get(), in_file.get(), H5P_DEFAULT, data) >= 0,
        "read");
}

void ActivationFile::write(std::int64_t first, std::int64_t count, const void* data) {
    const hdf5::Session session;
    const auto [in_file, in_memory] = state_->spaces(first, count);
    state_->check(
        H5Dwrite(state_->dataset.get(), state_->type.get(), in_memory.get(), in_file.get(), H5P_DEFAULT, data) >= 0,
        "written");
}

}  // namespace pvtune
