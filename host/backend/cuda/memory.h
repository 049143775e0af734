#pragma once

#include "cuda/runtime.h"

#include <cstddef>
#include <utility>

namespace pvtune::cuda {

/// Device memory with one owner.
class DeviceMemory {
public:
    DeviceMemory() = default;
    explicit DeviceMemory(std::size_t bytes) : bytes_(bytes) { check(cudaMalloc(&data_, bytes), "device memory"); }
    ~DeviceMemory() { cudaFree(data_); }
    DeviceMemory(DeviceMemory&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    DeviceMemory& operator=(DeviceMemory&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }

    void* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }

private:
    void* data_ = nullptr;
    std::size_t bytes_ = 0;
};

/// Scratch memory that every operation of a stream uses in turn. It grows to what the first step of a run asks for and
/// is not allocated again.
class Workspace {
public:
    void* get(std::size_t bytes) {
        if (bytes > memory_.bytes()) {
            memory_ = DeviceMemory();  // frees, and so waits for who uses it
            memory_ = DeviceMemory(bytes);
        }
        return memory_.data();
    }

private:
    DeviceMemory memory_;
};

}  // namespace pvtune::cuda
