#include "host/common/text_file.h"

namespace pvtune {

void TextFile::write(const std::string& text) {
    constexpr std::size_t piece = std::size_t{1} << 20;
    buffer_ += text;
    if (buffer_.size() >= piece) flush();
}

void TextFile::commit() {
    flush();
    file_.commit();
}

void TextFile::flush() {
    file_.file().write(offset_, std::as_bytes(std::span<const char>(buffer_)));
    offset_ += static_cast<std::int64_t>(buffer_.size());
    buffer_.clear();
}

}  // namespace pvtune
