#pragma once

// Device memory for tests of launchers; the same source runs on a device and on the emulated one.

#include "cuda/kernels.h"
#include "cuda/runtime.h"
#include "tests/cuda/device_under_test.h"
#include "tests/tensors.h"

#include <utility>

namespace pvtune::cuda {

using namespace pvtune::testing;

/// Waits for everything that was launched.
inline void finish() { check(cudaDeviceSynchronize(), "a kernel's work"); }

/// Device memory with all bits set (NaN; an index far out of range) between guard bytes.
class GuardedMemory {
public:
    explicit GuardedMemory(std::size_t bytes) : bytes_(bytes) {
        if (bytes == 0) return;
        check(cudaMalloc(reinterpret_cast<void**>(&memory_), bytes + 2 * guard_bytes), "device memory");
        check(cudaMemset(memory_, 0xff, guard_bytes + bytes), "a fill of device memory");
        set_guard(memory_);
        set_guard(memory_ + guard_bytes + bytes);
    }
    ~GuardedMemory() { cudaFree(memory_); }
    GuardedMemory(GuardedMemory&& other) noexcept
        : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    GuardedMemory& operator=(GuardedMemory&& other) noexcept {
        std::swap(memory_, other.memory_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }

    std::byte* data() const { return memory_ != nullptr ? memory_ + guard_bytes : nullptr; }
    std::size_t bytes() const { return bytes_; }
    void upload(const void* from) {
        if (bytes_ > 0) check(cudaMemcpy(data(), from, bytes_, cudaMemcpyHostToDevice), "a copy to the device");
    }
    /// After all work; fails the test if something wrote around this memory.
    void download(void* to) const {
        finish();
        if (bytes_ == 0) return;
        check(cudaMemcpy(to, data(), bytes_, cudaMemcpyDeviceToHost), "a copy from the device");
        expect_guard(memory_, "before");
        expect_guard(memory_ + guard_bytes + bytes_, "after");
    }

private:
    static constexpr unsigned char guard_value = 0xa5;

    static void set_guard(std::byte* at) {
        if (guard_bytes > 0) check(cudaMemset(at, guard_value, guard_bytes), "a guard");
    }
    static void expect_guard(const std::byte* at, const char* which) {
        std::vector<unsigned char> found(guard_bytes);
        if (guard_bytes == 0) return;
        check(cudaMemcpy(found.data(), at, guard_bytes, cudaMemcpyDeviceToHost), "a copy from the device");
        EXPECT_EQ(found, std::vector<unsigned char>(guard_bytes, guard_value)) << "bytes " << which << " a tensor";
    }

    std::byte* memory_ = nullptr;
    std::size_t bytes_ = 0;
};

class DeviceTensor {
public:
    /// Fresh: NaN.
    DeviceTensor(DType dtype, std::initializer_list<std::int64_t> shape)
        : host_(dtype, shape), memory_(static_cast<std::size_t>(host_->bytes())) {}
    /// A copy of a tensor in host memory.
    explicit DeviceTensor(const OwnedTensor& host) : host_(host), memory_(static_cast<std::size_t>(host->bytes())) {
        memory_.upload(host->data);
    }

    template <class T>
    T* as() const {
        return tensor().as<T>();
    }
    /// The tensor at its device address.
    Tensor tensor() const {
        Tensor view = host_;
        view.data = memory_.data();
        return view;
    }
    OwnedTensor download() const {
        OwnedTensor copy = host_;
        memory_.download(copy->data);
        return copy;
    }

private:
    OwnedTensor host_;  ///< gives the shape
    GuardedMemory memory_;
};

class DeviceWorkspace {
public:
    explicit DeviceWorkspace(std::size_t bytes) : memory_(bytes) {}
    void* data() const { return memory_.data(); }
    std::size_t bytes() const { return memory_.bytes(); }

private:
    GuardedMemory memory_;
};

}  // namespace pvtune::cuda
