#pragma once

#include "host/backend/backend.h"
#include "io/activation_file.h"

#include <future>
#include <memory>
#include <string>
#include <vector>

namespace pvtune {

/// Hidden states of the calibration sequences between two blocks, [sequences, length, width]: in memory, or in a file
/// that is read ahead and written behind the work, so that memory holds two parts of it at a time.
class ActivationStream {
public:
    /// file: where to keep them; empty: in memory. The file is removed with the object.
    ActivationStream(Backend& backend, DType dtype, std::int64_t sequences, std::int64_t length, std::int64_t width,
                     const std::string& file);
    ~ActivationStream();
    ActivationStream(const ActivationStream&) = delete;
    ActivationStream& operator=(const ActivationStream&) = delete;

    /// states [count * length, width] on the device = sequences [first, first + count). Reads the sequences behind them
    /// ahead.
    void read(std::int64_t first, std::int64_t count, Tensor states);
    /// sequences [first, first + count) = states. Returns before they are in the file.
    void write(std::int64_t first, std::int64_t count, Tensor states);

private:
    struct Part {
        std::int64_t first = -1;
        std::int64_t count = 0;
        std::vector<std::byte> bytes;
        std::future<void> transfer;  ///< under way, if valid
    };
    void finish(Part& part);

    Backend& backend_;
    std::int64_t sequences_;
    std::int64_t sequence_bytes_;
    std::vector<std::byte> memory_;  ///< all of them, without a file
    std::unique_ptr<ActivationFile> file_;
    Part ahead_, behind_;
};

}  // namespace pvtune
