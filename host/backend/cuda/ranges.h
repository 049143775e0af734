#pragma once

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

namespace pvtune::cuda {

/// The named range of the host's time that Nsight Systems shows; nothing where its header is not.
class NamedRange {
public:
    NamedRange() = default;
    ~NamedRange() { leave(); }
    NamedRange(const NamedRange&) = delete;
    NamedRange& operator=(const NamedRange&) = delete;

#if __has_include(<nvtx3/nvToolsExt.h>)
    void enter(const char* name) {
        leave();
        nvtxRangePushA(name);
        open_ = true;
    }
    void leave() {
        if (open_) nvtxRangePop();
        open_ = false;
    }

private:
    bool open_ = false;
#else
    void enter(const char*) {}
    void leave() {}
#endif
};

}  // namespace pvtune::cuda
