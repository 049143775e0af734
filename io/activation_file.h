#pragma once

#include "io/dtype.h"

#include <cstdint>
#include <memory>
#include <string>

namespace pvtune {

/// A scratch file for hidden states: HDF5 with one dataset /hidden [sequences, length, width], chunked by sequence with
/// Fletcher-32 sums, that is rewritten in place and removed with the object. It carries no content hash and is no
/// store: nothing outlives the run. Calls may come from several threads. Errors (no space, damaged) are Error with the
/// path.
class ActivationFile {
public:
    ActivationFile(std::string path, DType dtype, std::int64_t sequences, std::int64_t length, std::int64_t width);
    ~ActivationFile();
    ActivationFile(const ActivationFile&) = delete;
    ActivationFile& operator=(const ActivationFile&) = delete;

    /// Sequences [first, first + count), all of which must have been written.
    void read(std::int64_t first, std::int64_t count, void* data);
    void write(std::int64_t first, std::int64_t count, const void* data);

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace pvtune
