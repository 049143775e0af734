#include "host/calibrate/activation_stream.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace pvtune {

ActivationStream::ActivationStream(Backend& backend, DType dtype, std::int64_t sequences, std::int64_t length,
                                   std::int64_t width, const std::string& file)
    : backend_(backend), sequences_(sequences), sequence_bytes_(length * width * size_of(dtype)) {
    if (file.empty()) {
        memory_.resize(static_cast<std::size_t>(sequences * sequence_bytes_));
    } else {
        file_ = std::make_unique<ActivationFile>(file, dtype, sequences, length, width);
    }
}

ActivationStream::~ActivationStream() {
    for (Part* part : {&ahead_, &behind_}) {
        if (part->transfer.valid()) part->transfer.wait();
    }
}

void ActivationStream::finish(Part& part) {
    if (part.transfer.valid()) part.transfer.get();  // throws what the transfer threw
}

void ActivationStream::read(std::int64_t first, std::int64_t count, Tensor states) {
    assert(states.bytes() == count * sequence_bytes_ && first + count <= sequences_);
    if (!file_) return backend_.upload(states, memory_.data() + first * sequence_bytes_);
    finish(ahead_);
    if (ahead_.first != first || ahead_.count != count) {
        // What is still on its way to the file may be what is asked for.
        finish(behind_);
        ahead_.bytes.resize(static_cast<std::size_t>(count * sequence_bytes_));
        file_->read(first, count, ahead_.bytes.data());
    }
    backend_.upload(states, ahead_.bytes.data());
    ahead_.first = first + count < sequences_ ? first + count : 0;
    ahead_.count = std::min(count, sequences_ - ahead_.first);
    ahead_.bytes.resize(static_cast<std::size_t>(ahead_.count * sequence_bytes_));
    // The first part comes up next where a pass ends; it may be written until then, and is read when it is asked for.
    if (ahead_.first == 0) {
        ahead_.first = -1;
        return;
    }
    ahead_.transfer =
        std::async(std::launch::async, [this] { file_->read(ahead_.first, ahead_.count, ahead_.bytes.data()); });
}

void ActivationStream::write(std::int64_t first, std::int64_t count, Tensor states) {
    assert(states.bytes() == count * sequence_bytes_ && first + count <= sequences_);
    if (!file_) return backend_.download(memory_.data() + first * sequence_bytes_, states);
    finish(behind_);
    if (first < ahead_.first + ahead_.count && ahead_.first < first + count) {
        finish(ahead_);
        ahead_.first = -1;
    }
    behind_.first = first;
    behind_.count = count;
    behind_.bytes.resize(static_cast<std::size_t>(count * sequence_bytes_));
    backend_.download(behind_.bytes.data(), states);
    behind_.transfer =
        std::async(std::launch::async, [this] { file_->write(behind_.first, behind_.count, behind_.bytes.data()); });
}

}  // namespace pvtune
