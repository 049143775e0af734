#include "host/export/partial_file.h"

#include "host/export/partial_folder.h"

#include <unistd.h>
#include <cerrno>
#include <cstdio>
#include <utility>

namespace pvtune {

PartialFile::PartialFile(std::string path)
    : path_(std::move(path)), partial_(path_ + ".partial"), file_(open_partial(path_, partial_), path_) {}

PartialFile::~PartialFile() {
    if (!committed_) ::unlink(partial_.c_str());
}

void PartialFile::commit() {
    file_.sync();
    // Before the file is closed, which lets go of the lock that keeps another run from emptying it.
    if (::rename(partial_.c_str(), path_.c_str()) != 0) fail_writing(path_, errno);
    committed_ = true;
    sync_parent(path_);
}

}  // namespace pvtune
