#pragma once

#include "host/backend/arena.h"
#include "host/backend/ops.h"

#include <limits>
#include <memory>
#include <vector>

namespace pvtune {

/// A copy between host and device that may still be under way.
struct Copy {
    int lane = -1;  ///< -1: none
    std::int64_t number = 0;
};

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
    /// Memory of the host that copies go to and come from beside the device's work: pinned, holding anything until it
    /// is written (on the CPU like any other).
    virtual Arena& host_arena() = 0;
    /// Copies between arena() and host_arena(), after every operation launched so far and beside those launched later.
    virtual Copy start_upload(Tensor device, Tensor host) = 0;
    virtual Copy start_download(Tensor host, Tensor device) = 0;
    /// Operations launched from here on wait for the copy.
    virtual void wait_for(Copy copy) = 0;

    /// Waits for everything that was launched.
    virtual void synchronize() = 0;

    /// From here on the device's time belongs to this phase (0, 1, ...); profilers show its name.
    virtual void enter_phase(int phase, const char* name) = 0;
    /// Waits for everything; seconds that each of `count` phases took since the last call, and no phase from here on.
    virtual std::vector<double> end_phases(int count) = 0;

    /// Waits for the result: not for use inside a step.
    double sum_of_squares(Tensor values);

    /// One line for logs: device, threads, instruction set.
    virtual std::string description() const = 0;
    /// Bytes of device memory that a plan may use.
    virtual std::int64_t memory_limit() const = 0;
    /// Bytes of its largest caches: what a benchmark must flush.
    virtual std::int64_t cache_bytes() const = 0;
    /// The longest row that Ops::hadamard_transform takes, so the longest side of a matrix of lattice codes.
    virtual std::int64_t longest_hadamard_row() const { return std::numeric_limits<std::int64_t>::max(); }
    /// The device's stream (a cudaStream_t), for benchmarks of kernels outside Ops; null on the CPU.
    virtual void* stream() const { return nullptr; }
    /// One more arena, for work that needs its memory for a while only.
    virtual std::unique_ptr<Arena> new_arena() = 0;

private:
    Tensor scalar_;
};

/// Options of the CPU backend.
struct CpuOptions {
    int threads = 0;        ///< 0: all that the process may use
    bool planning = false;  ///< record allocations only
};

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

/// Options of the CUDA backend.
struct CudaOptions {
    bool planning = false;  ///< record allocations only; needs no device
};

/// Throws Error where this build has no CUDA, and where there is no device that can run it.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

}  // namespace pvtune
