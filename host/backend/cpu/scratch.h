#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace pvtune::cpu {

/// A 64-byte aligned buffer that grows to the largest size asked for and is then kept: after the first step of a run
/// nothing is allocated any more. Contents are undefined.
class Scratch {
public:
    template <class T>
    T* get(std::int64_t elements) {
        const std::size_t bytes = (static_cast<std::size_t>(elements) * sizeof(T) + 63) / 64 * 64;
        if (bytes > bytes_) {
            memory_.reset(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
            if (!memory_) throw std::bad_alloc();
            bytes_ = bytes;
        }
        return reinterpret_cast<T*>(memory_.get());
    }

private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    std::unique_ptr<std::byte, Free> memory_;
    std::size_t bytes_ = 0;
};

}  // namespace pvtune::cpu
