#pragma once

// Named ranges for Nsight Systems; nothing where its header is not.

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

namespace pvtune::cuda {

#if __has_include(<nvtx3/nvToolsExt.h>)
inline void begin_range(const char* name) { nvtxRangePushA(name); }
inline void end_range() { nvtxRangePop(); }
#else
inline void begin_range(const char*) {}
inline void end_range() {}
#endif

}  // namespace pvtune::cuda
