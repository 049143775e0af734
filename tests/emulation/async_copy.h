#pragma once

#include "tests/emulation/scheduler.h"

// The copies of cuda/async_copy.cuh. Until the wait the destination holds NaN.
namespace pvtune::cuda::emulation {

void async_copy_16(void* shared, const void* global, int valid = 16, Where where = Where::current());
void async_commit();
void land_copies(int pending_groups, Where where);

template <int pending>
void async_wait(Where where = Where::current()) {
    land_copies(pending, where);
}

}  // namespace pvtune::cuda::emulation
