#include "io/output_file.h"

#include "io/error.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
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

OutputFile::OutputFile(const std::string& path, std::string shown, bool create) : shown_(std::move(shown)) {
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0666);
    if (descriptor_ < 0) fail_writing(shown_, errno);
}

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
    const bool good = ::fsync(descriptor_) == 0;
    const int error = errno;
    ::close(std::exchange(descriptor_, -1));
    if (!good) fail_writing(shown_, error);
}

}  // namespace pvtune
