#include "cuda/hadamard_sizes.h"
#include "cuda/runtime.h"
#include "host/backend/backend.h"
#include "host/backend/cuda/copy_lane.h"
#include "host/backend/cuda/cuda_ops.h"
#include "host/backend/cuda/memory.h"
#include "host/backend/cuda/phase_events.h"
#include "host/backend/cuda/ranges.h"
#include "io/error.h"

#include <algorithm>
#include <array>

namespace pvtune {

namespace {

/// mma.sync on bf16 and cp.async: A100, RTX 30 and newer.
constexpr int oldest_compute_capability = 80;
/// What a plan is held against on a machine without a device: one of 80 GB, of which contexts take some.
constexpr std::int64_t memory_of_a_planned_device = std::int64_t{79} << 30;
constexpr std::int64_t cache_of_a_planned_device = 50 << 20;
constexpr std::size_t shared_of_a_planned_device = 227 << 10;
/// Of a device's free memory: fragments, the library's workspaces, kernels' code.
constexpr std::int64_t memory_reserve = std::int64_t{768} << 20;

/// Null where there is no device.
std::unique_ptr<cudaDeviceProp> find_device(std::string& reason) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
        reason = status == cudaSuccess ? "no device" : cudaGetErrorString(status);
        return nullptr;
    }
    auto properties = std::make_unique<cudaDeviceProp>();
    cuda::check(cudaGetDeviceProperties(properties.get(), 0), "the properties of the device");
    return properties;
}

std::string capability(const cudaDeviceProp& device) {
    return std::to_string(device.major) + "." + std::to_string(device.minor);
}

class CudaBackend final : public Backend {
public:
    explicit CudaBackend(const cudaDeviceProp& device)
        : ops_(cuda::make_ops(compute_.stream, workspace_, gemm_)),
          arena_([this](std::int64_t bytes) { return allocate(bytes); }, release),
          host_arena_(allocate_pinned, [](void* memory) { cudaFreeHost(memory); }),
          description_("cuda, " + std::string(device.name) + ", compute capability " + capability(device)),
          cache_bytes_(device.l2CacheSize),
          longest_hadamard_row_(cuda::longest_hadamard_row(device.sharedMemPerBlockOptin)) {}
    ~CudaBackend() override { cudaDeviceSynchronize(); }

    Ops& ops() override { return *ops_; }
    Arena& arena() override { return arena_; }
    std::unique_ptr<Arena> new_arena() override {
        return std::make_unique<Arena>([this](std::int64_t bytes) { return allocate(bytes); }, release);
    }
    void upload(Tensor to, const void* from) override {
        if (to.elements() == 0) return;
        cuda::check(cudaMemcpyAsync(to.data, from, static_cast<std::size_t>(to.bytes()), cudaMemcpyHostToDevice,
                                    compute_.stream),
                    "a copy to the device");
        // The source may be gone when this returns, and not every device stages pageable memory before.
        cuda::check(cudaStreamSynchronize(compute_.stream), "a copy to the device");
    }
    void download(void* to, Tensor from) override {
        if (from.elements() == 0) return;
        cuda::check(cudaMemcpyAsync(to, from.data, static_cast<std::size_t>(from.bytes()), cudaMemcpyDeviceToHost,
                                    compute_.stream),
                    "a copy from the device");
        synchronize();
    }
    Arena& host_arena() override { return host_arena_; }
    Copy start_upload(Tensor device, Tensor host) override {
        return {uploads, lanes_[uploads].start(device.data, host.data, static_cast<std::size_t>(host.bytes()),
                                               cudaMemcpyHostToDevice, compute_.stream)};
    }
    Copy start_download(Tensor host, Tensor device) override {
        return {downloads, lanes_[downloads].start(host.data, device.data, static_cast<std::size_t>(device.bytes()),
                                                   cudaMemcpyDeviceToHost, compute_.stream)};
    }
    void wait_for(Copy copy) override {
        if (copy.lane >= 0) lanes_[static_cast<std::size_t>(copy.lane)].wait(copy.number, compute_.stream);
    }
    void synchronize() override {
        cuda::check(cudaStreamSynchronize(compute_.stream), "the work on the device");
        for (cuda::CopyLane& lane : lanes_) lane.synchronize();
    }
    void enter_phase(int phase, const char* name) override {
        range_.enter(name);
        phases_.enter(phase, compute_.stream);
    }
    std::vector<double> end_phases(int count) override {
        range_.leave();
        return phases_.end(count, compute_.stream);
    }
    std::string description() const override { return description_; }
    std::int64_t memory_limit() const override {
        std::size_t free = 0, total = 0;
        cuda::check(cudaMemGetInfo(&free, &total), "the memory of the device");
        return std::max<std::int64_t>(0, static_cast<std::int64_t>(free) - memory_reserve);
    }
    std::int64_t cache_bytes() const override { return cache_bytes_; }
    std::int64_t longest_hadamard_row() const override { return longest_hadamard_row_; }
    void* stream() const override { return compute_.stream; }

private:
    enum { uploads, downloads };

    /// Null when the host is full.
    static void* allocate_pinned(std::int64_t bytes) {
        void* memory = nullptr;
        if (cudaMallocHost(&memory, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))) == cudaSuccess)
            return memory;
        cudaGetLastError();
        return nullptr;
    }
    /// Waits for whoever uses the memory.
    static void release(void* memory) { cudaFree(memory); }
    /// Null when the device is full: the arena says what for.
    void* allocate(std::int64_t bytes) {
        void* memory = nullptr;
        const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1));
        if (cudaMalloc(&memory, size) != cudaSuccess) {
            cudaGetLastError();  // else the next launch would report it
            return nullptr;
        }
        cuda::check(cudaMemsetAsync(memory, 0, size, compute_.stream), "memory set to zero");
        return memory;
    }

    cuda::StreamOwner compute_;
    std::array<cuda::CopyLane, 2> lanes_;
    cuda::Workspace workspace_;
    cuda::Gemm gemm_;
    std::unique_ptr<Ops> ops_;
    Arena arena_;
    Arena host_arena_;
    cuda::PhaseEvents phases_;
    cuda::NamedRange range_;
    std::string description_;
    std::int64_t cache_bytes_;
    std::int64_t longest_hadamard_row_;
};

/// Records allocations; works without a device.
class PlanningBackend final : public Backend {
public:
    explicit PlanningBackend(const cudaDeviceProp* device)
        : limit_((device == nullptr ? memory_of_a_planned_device : static_cast<std::int64_t>(device->totalGlobalMem)) -
                 memory_reserve),
          cache_bytes_(device == nullptr ? cache_of_a_planned_device : device->l2CacheSize),
          longest_hadamard_row_(cuda::longest_hadamard_row(device == nullptr ? shared_of_a_planned_device
                                                                             : device->sharedMemPerBlockOptin)),
          description_(device == nullptr ? "cuda, planned for a device of 80 GB: there is none here"
                                         : "cuda, " + std::string(device->name)) {}

    Ops& ops() override { throw std::logic_error("a plan computes nothing"); }
    Arena& arena() override { return arena_; }
    std::unique_ptr<Arena> new_arena() override { return std::make_unique<Arena>(); }
    Arena& host_arena() override { return host_arena_; }
    Copy start_upload(Tensor, Tensor) override { return {}; }
    Copy start_download(Tensor, Tensor) override { return {}; }
    void wait_for(Copy) override {}
    void upload(Tensor, const void*) override {}
    void download(void*, Tensor) override { throw std::logic_error("a plan computes nothing"); }
    void synchronize() override {}
    void enter_phase(int, const char*) override {}
    std::vector<double> end_phases(int count) override { return std::vector<double>(static_cast<std::size_t>(count)); }
    std::string description() const override { return description_; }
    std::int64_t memory_limit() const override { return limit_; }
    std::int64_t cache_bytes() const override { return cache_bytes_; }
    std::int64_t longest_hadamard_row() const override { return longest_hadamard_row_; }

private:
    Arena arena_;
    Arena host_arena_;
    std::int64_t limit_;
    std::int64_t cache_bytes_;
    std::int64_t longest_hadamard_row_;
    std::string description_;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
    std::string reason;
    const auto device = find_device(reason);
    if (options.planning) return std::make_unique<PlanningBackend>(device.get());
    if (device == nullptr) throw Error("--device cuda: no CUDA device can be used (" + reason + "): use --device cpu");
    if (device->major * 10 + device->minor < oldest_compute_capability) {
        throw Error("--device cuda: " + std::string(device->name) + " has compute capability " + capability(*device) +
                    ", 8.0 or newer is needed (A100, RTX 30): use --device cpu");
    }
    return std::make_unique<CudaBackend>(*device);
}

}  // namespace pvtune
