#include "io/output_file.h"

#include "io/error.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace pvtune {

void fail_writing(const std::string& path, int error) {
    std::string remedy = "check the path and the disk";
    if (error == ENOSPC || error == EDQUOT) remedy = "free some space or choose another folder";
    if (error == EFBIG) remedy = "raise the limit on file sizes (ulimit -f) or choose another folder";
    if (error == ENOENT || error == ENOTDIR) remedy = "make the folder first";
    if (error == EACCES || error == EPERM || error == EROFS) remedy = "choose a folder that you may write to";
    if (error == ENAMETOOLONG) remedy = "choose a shorter name";
    throw Error(path + ": cannot be written (" + std::strerror(error) + "): " + remedy);
}

namespace {

/// Closes the descriptor where it cannot have it.
void lock(int descriptor, const std::string& path, const std::string& named) {
    const bool locked = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    // The other run may have renamed or removed it between our opening and locking it.
    if (locked && is_at(descriptor, named)) return;
    ::close(descriptor);
    throw Error(path + ": another run is writing it: wait for it or choose another name");
}

}  // namespace

int open_partial(const std::string& path, const std::string& partial) {
    if (path.empty()) throw Error("the name of the output file is empty: name a file");
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
        throw Error(path + ": is a folder: name a file inside it");
    const int descriptor = ::open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) fail_writing(path, errno);
    lock(descriptor, path, partial);
    if (::ftruncate(descriptor, 0) != 0) {
        const int error = errno;
        ::close(descriptor);
        fail_writing(path, error);
    }
    return descriptor;
}

int lock_folder(const std::string& path, const std::string& folder) {
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) fail_writing(folder, errno);
    lock(descriptor, path, folder);
    return descriptor;
}

bool is_at(int descriptor, const std::string& path) {
    struct stat opened {};
    struct stat named {};
    return ::fstat(descriptor, &opened) == 0 && ::stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
           opened.st_dev == named.st_dev;
}

void commit_partial(int descriptor, const std::string& path, const std::string& partial) {
    if (::fsync(descriptor) != 0) fail_writing(path, errno);
    if (!is_at(descriptor, partial))
        throw Error(path + ": cannot be written: " + partial + " was removed or replaced meanwhile");
    if (::rename(partial.c_str(), path.c_str()) != 0) fail_writing(path, errno);
    sync_parent(path);
}

void sync_parent(const std::string& path) {
    const std::string folder = std::filesystem::path(path).parent_path().string();
    const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    ::fsync(descriptor);  // some file systems cannot; that is not worth an error
    ::close(descriptor);
}

OutputFile::OutputFile(const std::string& path, std::string shown) : shown_(std::move(shown)) {
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail_writing(shown_, errno);
}

OutputFile::OutputFile(int descriptor, std::string shown) : shown_(std::move(shown)), descriptor_(descriptor) {}

OutputFile::~OutputFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : shown_(std::move(other.shown_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

void OutputFile::write(std::int64_t offset, std::span<const std::byte> data) {
    while (!data.empty()) {
        const ssize_t written = ::pwrite(descriptor_, data.data(), data.size(), offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail_writing(shown_, written < 0 ? errno : ENOSPC);
        data = data.subspan(static_cast<std::size_t>(written));
        offset += written;
    }
}

std::int64_t OutputFile::size() const {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_writing(shown_, errno);
    return status.st_size;
}

void OutputFile::finish() {
    if (::fsync(descriptor_) != 0) fail_writing(shown_, errno);
    ::close(std::exchange(descriptor_, -1));
}

}  // namespace pvtune
