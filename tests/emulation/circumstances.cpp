#include "tests/emulation/circumstances.h"

#include <cstdlib>
#include <type_traits>

namespace pvtune::cuda::emulation {

const Circumstances& circumstances() {
    static const Circumstances found = [] {
        Circumstances c;
        const auto read = [](const char* name, auto& value) {
            if (const char* text = std::getenv(name))
                value = static_cast<std::decay_t<decltype(value)>>(std::atoll(text));
        };
        read("PVTUNE_EMULATED_DEVICES", c.devices);
        read("PVTUNE_EMULATED_CAPABILITY", c.compute_capability);
        read("PVTUNE_EMULATED_MEMORY", c.memory_bytes);
        read("PVTUNE_EMULATED_FAILING_LAUNCH", c.failing_launch);
        return c;
    }();
    return found;
}

}  // namespace pvtune::cuda::emulation
