#include "io/file_state.h"

#include "io/error.h"

namespace pvtune {

FileState::FileState(int descriptor) { ::fstat(descriptor, &status_); }

void FileState::check_unchanged(int descriptor, const std::string& path) const {
    const FileState now(descriptor);
    const timespec& before = status_.st_mtim;
    const timespec& after = now.status_.st_mtim;
    if (now.status_.st_size == status_.st_size && after.tv_sec == before.tv_sec && after.tv_nsec == before.tv_nsec)
        return;
    throw Error(path + ": was written to while it was read: run it again");
}

}  // namespace pvtune
