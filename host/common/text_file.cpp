#include "host/common/text_file.h"

#include "io/error.h"

#include <unistd.h>
#include <cerrno>
#include <cstring>

namespace pvtune {

TextFile::TextFile(std::string path) : path_(std::move(path)), partial_(path_ + ".partial") {
    file_.reset(std::fopen(partial_.c_str(), "we"));
    if (!file_) fail(errno);
}

TextFile::~TextFile() {
    if (file_) ::unlink(partial_.c_str());
}

void TextFile::write(const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size()) fail(errno);
}

void TextFile::commit() {
    const bool good = std::fflush(file_.get()) == 0 && ::fsync(fileno(file_.get())) == 0 &&
                      ::rename(partial_.c_str(), path_.c_str()) == 0;
    if (!good) fail(errno);
    file_.reset();
}

void TextFile::fail(int error) {
    throw Error(path_ + ": cannot be written (" + std::strerror(error) +
                "): " + (error == ENOSPC || error == EFBIG ? "free some space" : "check the path") +
                " or choose another --out");
}

}  // namespace pvtune
