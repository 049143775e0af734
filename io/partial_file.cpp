#include "io/partial_file.h"

#include <unistd.h>
#include <utility>

namespace pvtune {

PartialFile::PartialFile(std::string path)
    : path_(std::move(path)), partial_(path_ + ".partial"), file_(open_partial(path_, partial_), path_) {}

PartialFile::~PartialFile() {
    if (!committed_ && is_at(file_.descriptor(), partial_)) ::unlink(partial_.c_str());
}

void PartialFile::commit() {
    commit_partial(file_.descriptor(), path_, partial_);
    committed_ = true;
}

}  // namespace pvtune
