#pragma once

#include "tests/emulation/scheduler.h"

namespace pvtune::cuda::emulation {

/// Waits for every live thread of the block, all of which must come to the same place. Returns how many of them had a
/// predicate other than 0.
int barrier(const char* operation, int predicate, const Where& where);

}  // namespace pvtune::cuda::emulation

inline void __syncthreads(const std::source_location where = std::source_location::current()) {
    pvtune::cuda::emulation::barrier("__syncthreads", 0, where);
}
inline int __syncthreads_count(int predicate, const std::source_location where = std::source_location::current()) {
    return pvtune::cuda::emulation::barrier("__syncthreads_count", predicate, where);
}
inline int __syncthreads_or(int predicate, const std::source_location where = std::source_location::current()) {
    return pvtune::cuda::emulation::barrier("__syncthreads_or", predicate, where) > 0;
}
inline int __syncthreads_and(int predicate, const std::source_location where = std::source_location::current()) {
    return pvtune::cuda::emulation::barrier("__syncthreads_and", predicate == 0, where) == 0;
}
