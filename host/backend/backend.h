#pragma once

#include "host/backend/arena.h"
#include "host/backend/ops.h"

#include <memory>

namespace pvtune {

/// A device with its memory and its operations. Model and tuning code see nothing else of it.
class Backend {
public:
    virtual ~Backend() = default;

    virtual Ops& ops() = 0;
    /// The arena of the run; reset() starts a new one.
    virtual Arena& arena() = 0;

    /// Host to device and back; sizes are the tensor's.
    virtual void upload(Tensor to, const void* from) = 0;
    virtual void download(void* to, Tensor from) = 0;
    /// Waits for everything that was launched.
    virtual void synchronize() = 0;

    /// One line for logs: device, threads, instruction set.
    virtual std::string description() const = 0;
    /// Bytes of device memory that a plan may use.
    virtual std::int64_t memory_limit() const = 0;
};

/// Options of the CPU backend.
struct CpuOptions {
    int threads = 0;        ///< 0: all that the process may use
    bool planning = false;  ///< record allocations only
};

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace pvtune
