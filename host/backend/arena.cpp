#include "host/backend/arena.h"

#include "io/error.h"

#include <algorithm>

namespace pvtune {

Arena::~Arena() {
    for (void* block : blocks_) release_(block);
}

Tensor Arena::allocate(const std::string& name, DType dtype, std::initializer_list<std::int64_t> shape) {
    Tensor tensor(nullptr, dtype, shape);
    const std::int64_t bytes = tensor.bytes();
    if (!planning()) {
        void* block = allocate_(bytes);
        if (block == nullptr) {
            throw Error("no memory for " + name + " (" + std::to_string(bytes >> 20) + " MiB on top of " +
                        std::to_string(bytes_ >> 20) + " MiB): use a smaller --batch or --ctx");
        }
        blocks_.push_back(block);
        tensor.data = static_cast<std::byte*>(block);
    }
    allocations_.push_back({name, bytes});
    bytes_ += bytes;
    return tensor;
}

std::vector<Allocation> Arena::table() const {
    std::vector<Allocation> merged;
    for (const auto& allocation : allocations_) {
        const auto same = std::find_if(merged.begin(), merged.end(),
                                       [&](const Allocation& other) { return other.name == allocation.name; });
        if (same == merged.end()) {
            merged.push_back(allocation);
        } else {
            same->bytes += allocation.bytes;
        }
    }
    return merged;
}

}  // namespace pvtune
